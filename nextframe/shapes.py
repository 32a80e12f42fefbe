"""The legend of axes, and names for the tensors that pass between modules.

b batch · f frames · c h w latent channels, rows, columns · n tokens · d model width · p patch · k heads · e head width
(an axis that begins with _ may differ between the arguments of one call)

The annotations are jaxtyping's; the tests check them at run time (tests/conftest.py says where), nothing else does.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

Pixels = Float[Tensor, "b 3 height width"]
"""Frames in [-1, 1], as the autoencoder sees them."""
Latents = Float[Tensor, "b f c h w"]
"""Scaled latents, about unit variance."""
FrameTimes = Float[Tensor, "b f"]
"""Network time per frame: 1000 * s of noise level s, in [0, 1000], or CLEAN_TIME, or COARSE_TIME."""
FrameConditions = Int[Tensor, "b f"] | Float[Tensor, "b f a"]
"""Label or action id per frame, the number of classes being the null condition; or a vector, nan being none."""
Tokens = Float[Tensor, "b _f _n _channels"]
"""The patches of each frame of one segment; segments differ in all but b."""
HeadTokens = Float[Tensor, "b _n k e"]
"""Queries, keys or values, one after the other."""
Heads = Float[Tensor, "b k _n e"]
"""The same by heads, as attention wants them."""
Modulations = list[Float[Tensor, "b f _chunks_d"]]
"""What conditions do to the blocks: per block one for its attention and one for its MLP, and last one for the head."""
RotaryTable = Float[Tensor, "*_b _n half_e 2"]
"""Cosine and sine of each token's angle, for each pair of channels; with an axis b where rows of a batch differ."""
AttentionMask = Bool[Tensor, "queries keys"] | Float[Tensor, "queries keys"]
"""True (or a finite number, added to the logits) where a query may look at a key."""
