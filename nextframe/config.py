"""Every setting of a model, its training and its sampling, as frozen dataclasses. No torch in here.

A configuration is written beside the weights it belongs to (`config.yaml`) and read back strictly: an unknown name
or a value of the wrong type is refused, with the nearest real name.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nextframe.errors import UserError

Solver = Literal["euler", "heun", "adams"]
Condition = Literal["none", "label", "action", "vector"]


def at_least(settings: object, **smallest: float) -> None:
    """Raises ValueError naming the first field that is below its smallest value."""
    for name, least in smallest.items():
        value = getattr(settings, name)
        if value is not None and not value >= least:  # also refuses nan
            raise ValueError(f"{name} is {value}: it must be at least {least}")


MOST_LAYERS = 1000
"""So that a configuration that somebody else wrote keeps nobody waiting."""


@dataclass(frozen=True)
class TransformerConfig:
    """The FAR transformer (arXiv 2503.19325, section 3); the defaults are FAR-B on 8 x 8 latents."""

    latent_channels: int = 32
    latent_size: int = 8
    """Rows and columns of the latent grid."""
    layers: int = 12
    heads: int = 12
    head_dim: int = 64
    rope_axes: tuple[int, int, int] = (16, 24, 24)
    """Channels of a head that turn with the frame, the row and the column; those of a compass come on top."""
    patch: int = 1
    """Latent rows and columns per token in the fine level (the newest frames)."""
    coarse_patch: int | None = None
    """The same in the coarse level (every older frame): a long model. None: a short model, without that level.
    The paper's asymmetric patchify kernels: `patch` for short-term context, this one for long-term (section 3.3)."""
    window: int = 16
    """Frames in the fine level, the newest included."""
    attention: Literal["frame-causal", "full"] = "frame-causal"
    """full: a Video DiT, in which all frames of a clip share one time and are sampled together."""
    condition: Condition = "none"
    """What each frame is told: the label of its clip, the id of an action, or an action that is a vector of numbers
    (continuous, or several keys at once)."""
    classes: int = 0
    """Number of labels or actions; the null condition of guidance is the id after the last."""
    action_size: int = 0
    """Numbers in an action that is a vector; its null condition is all nan."""
    action_of: Literal["arrival", "departure"] = "arrival"
    """Which action a frame is given: the one that led to it, or (the published networks) the one taken in it."""
    turns: tuple[int, ...] = ()
    """A compass: action i turns the agent by turns[i] steps of 360 / `headings` degrees. Attention then knows how far a
    frame faces away from another, as it knows how long ago it was. Empty: it does not."""
    headings: int = 1
    """Directions in a full circle; 1: no compass."""
    temporal_decay: float = 0.0
    """FlexRoPE: taken from the attention logits per frame of distance between key and query."""
    riflex_frames: int | None = None
    """RIFLEx: no temporal frequency repeats within so many frames (the one that would is slowed). None: plain RoPE. Not
    for training: --sample.riflex sets it."""
    memory: int | None = None
    """Frames that are seen at once, at most, the newest included; older ones are forgotten. None: all. Not for
    training: --sample.memory sets it."""
    slide: int = 1
    """Frames by which the window of a long model moves at a time; in between it holds fewer than `window`. Not for
    training: --sample.slide sets it."""

    def __post_init__(self) -> None:
        at_least(self, latent_channels=1, latent_size=1, layers=1, heads=1, head_dim=2, window=1, temporal_decay=0)
        at_least(self, classes=0, action_size=0, headings=1, riflex_frames=1, memory=self.window, slide=1)
        if self.layers > MOST_LAYERS:
            raise ValueError(f"layers is {self.layers}: it must be at most {MOST_LAYERS}")
        if self.slide > self.window:
            raise ValueError(f"slide {self.slide} must be at most window {self.window}")
        if self.slide > 1 and self.coarse_patch is None:
            raise ValueError("a short model has no window that slides over a coarse past: slide must be 1")
        if any(axis % 2 for axis in self.rope_axes):
            raise ValueError(f"rope_axes {self.rope_axes} must be even: channels turn in pairs")
        if bool(self.turns) != (self.headings > 1):
            raise ValueError(f"turns {self.turns} and headings {self.headings}: a compass needs both, else neither")
        if self.turns and (self.condition, self.action_of, self.attention) != ("action", "arrival", "frame-causal"):
            raise ValueError("a compass adds up the actions that led to each frame: this model is told none, turns=()")
        if self.turns and len(self.turns) != self.classes:
            raise ValueError(f"turns {self.turns} must have a number for each of the {self.classes} actions")
        if sum(self.rope_axes) + 2 * len(self.compass) != self.head_dim:
            compass = f" and the compass's {2 * len(self.compass)}" if self.compass else ""
            raise ValueError(f"rope_axes {self.rope_axes}{compass} must add up to head_dim {self.head_dim}")
        if self.condition in ("label", "action") and self.classes < 1:
            raise ValueError(f"condition {self.condition!r} needs classes >= 1")
        if self.condition == "vector" and self.action_size < 1:
            raise ValueError("condition 'vector' needs action_size >= 1")
        if self.attention == "full" and (self.coarse_patch is not None or self.temporal_decay):
            raise ValueError("full attention sees all frames alike: coarse_patch must be None, temporal_decay 0")
        for name, patch in (("patch", self.patch), ("coarse_patch", self.coarse_patch or self.patch)):
            if patch < 1 or self.latent_size % patch:
                raise ValueError(f"{name} {patch} must divide latent_size {self.latent_size}")
        if self.coarse_patch is not None and self.coarse_patch % self.patch:
            raise ValueError(f"coarse_patch {self.coarse_patch} must be a multiple of patch {self.patch}")

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of a latent."""
        return self.latent_channels, self.latent_size, self.latent_size

    @property
    def compass(self) -> tuple[int, ...]:
        """How many times round each of its pairs of channels turns in a full circle: 1, 2, 4 ... up to half of it."""
        return tuple(2**power for power in range(self.headings.bit_length() - 1))

    @property
    def null_condition(self) -> float:
        """What stands for no condition: in every number of a vector, or as an id."""
        return math.nan if self.condition == "vector" else self.classes


@dataclass(frozen=True)
class AutoencoderConfig:
    """A DC-AE (`diffusers.AutoencoderDC`); the defaults are the published 8x model for 64 x 64 video."""

    frame_size: int = 64
    """Height and width of the frames it is trained on, in pixels."""
    latent_channels: int = 32
    encoder_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels per stage; every stage after the first halves the resolution."""
    encoder_layers: tuple[int, ...] = (0, 4, 8, 2)
    decoder_channels: tuple[int, ...] = (128, 256, 512, 512)
    decoder_layers: tuple[int, ...] = (0, 5, 10, 2)
    attention_stages: int = 1
    """How many of the last stages are EfficientViT blocks rather than residual blocks."""
    decoder_norm: Literal["batch_norm", "rms_norm"] = "batch_norm"
    """Of the decoder's residual blocks; its attention blocks always have RMS norm."""
    decoder_activation: Literal["relu", "silu"] = "relu"

    def __post_init__(self) -> None:
        at_least(self, frame_size=1, latent_channels=1)
        stages = len(self.encoder_channels)
        lengths = {len(self.encoder_layers), len(self.decoder_channels), len(self.decoder_layers)}
        if lengths != {stages} or not stages:
            raise ValueError("encoder and decoder need one number of channels and of layers for each stage")
        layers = (*self.encoder_layers, *self.decoder_layers)
        if max(stages, *layers) > MOST_LAYERS or min(layers) < 0:
            raise ValueError(f"a stage may have 0 to {MOST_LAYERS} layers")
        if min(*self.encoder_channels, *self.decoder_channels) < 1:
            raise ValueError("a stage must have at least one channel")
        if self.encoder_channels[-1] % self.latent_channels or self.decoder_channels[-1] % self.latent_channels:
            raise ValueError(f"latent_channels {self.latent_channels} must divide the channels of the last stage")
        if self.frame_size % self.compression:
            raise ValueError(f"frame_size {self.frame_size} must be a multiple of {self.compression}")

    @property
    def compression(self) -> int:
        """Pixels per latent row or column."""
        return 2 ** (len(self.encoder_channels) - 1)

    @property
    def latent_size(self) -> int:
        return self.frame_size // self.compression

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.latent_channels, self.latent_size, self.latent_size


@dataclass(frozen=True)
class OptimizerConfig:
    algorithm: Literal["adamw", "muon"] = "adamw"
    """`muon`: for the matrices in the blocks of a transformer, beside AdamW for the rest, at the same rate. It takes
    fewer steps (docs/experiments.md); the paper has AdamW."""
    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    """Largest L2 norm of the gradient of all weights together; a discriminator's gradient is not clipped."""
    warmup_steps: int = 0
    """Steps over which the rate climbs linearly from zero."""
    decay: float = 0.0
    """Last part of the run over which the rate falls linearly to zero; 0: constant to the end."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights, which are the ones sampled with; the average is shorter in the first steps."""

    def __post_init__(self) -> None:
        at_least(self, learning_rate=0, weight_decay=0, gradient_clip=0, warmup_steps=0, decay=0, ema_decay=0)
        if not self.gradient_clip:
            raise ValueError("gradient_clip is 0, and nothing would be learnt: a large one, 1e9, clips nothing")
        if self.decay > 1 or self.ema_decay > 1:
            raise ValueError(f"decay {self.decay} and ema_decay {self.ema_decay} must be at most 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must be at least 0 and below 1")


@dataclass(frozen=True)
class ClipConfig:
    """What one training clip is."""

    frames: int = 16
    interval: int = 1
    """Every n-th frame of the episode."""
    min_frames: int | None = None
    """Long models: the length is drawn uniformly from [min_frames, frames), the same for all clips of a step."""
    mirror: bool = False
    """Mirror half of the clips, left to right; the latents must have been encoded with --mirrored."""
    ramp: float = 0.0
    """First part of the steps over which the longest length grows, by equal factors, from min_frames to frames."""
    windows: int = 1
    """Long models: windows that share the coarse past of a clip, and each see what is before them alone. Each has the
    lengths and starts it would have alone (`places.py`); `batch` counts windows."""

    def __post_init__(self) -> None:
        at_least(self, frames=1, interval=1, min_frames=1, ramp=0, windows=1)
        if self.min_frames is not None and self.min_frames >= self.frames:
            raise ValueError(f"min_frames {self.min_frames} must be below frames {self.frames}: set --clip.min-frames")
        if self.windows > 1 and self.min_frames is None:
            raise ValueError("windows of one length would all be the same frames: set --clip.min-frames")


@dataclass(frozen=True)
class TrainConfig:
    """One training run; what is trained is the other half of its preset."""

    steps: int = 400_000
    batch: int = 32
    """Clips (autoencoder: frames; clips of several windows: windows) per optimizer step, of all processes together."""
    accumulate: int = 1
    """Parts a batch is cut into, one after the other, to save memory. A world model learns the same; an autoencoder
    with batch norm, latent noise or a discriminator sees the statistics of a part."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` ..."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products; the weights and the optimizer are float32. `auto`: bfloat16 where the hardware has it."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the blocks of a transformer; `auto`: on a GPU."""
    float8: Literal["off", "on", "emulated"] = "off"
    """Multiply the matrices of a transformer's blocks in 8-bit floats, on a GPU that has them. `emulated`: with the
    same roundings on any device, slowly, to see what they do to a loss."""
    flex_attention: bool = False
    """Attend by torch's FlexAttention, on a GPU: what the mask hides is left out block by block, in one kernel."""
    shard: bool = False
    """Under torchrun each process keeps a piece of the weights, not a copy (docs/scaling.md). Alone: no difference."""
    patience_minutes: float = 10.0
    """Under torchrun: how long a process waits for the others, which may be compiling or writing, before it ends."""
    recompute: bool = False
    """Compute the inside of each transformer block again for the backward pass: less memory, more time."""
    checkpoint_minutes: float = 10.0
    examine_minutes: float | None = 10.0
    """So often, and at the end, the averaged weights are tried on held-out clips (docs/scaling.md). None: never."""
    log_every: int = 20
    """A line of metrics.jsonl every so many steps."""
    wandb: str | None = None
    """Project at wandb that gets the figures too; with WANDB_MODE=offline they stay here until `wandb sync`."""
    most_skipped: int = 50
    """A step whose loss or gradient is not a number is skipped. After so many in a row the run ends; this is looked at
    when a line is logged."""
    minutes: float | None = None
    """Stop after this much training time (of all runs that were resumed together), whatever `steps` says. Examining
    held-out clips is no training: it comes on top."""

    def __post_init__(self) -> None:
        at_least(self, steps=1, batch=1, accumulate=1, seed=0, checkpoint_minutes=0, log_every=1, most_skipped=1)
        at_least(self, minutes=0.001, patience_minutes=0.001, examine_minutes=0)
        if self.patience_minutes > 1e6:
            raise ValueError(f"patience_minutes is {self.patience_minutes}: it must be at most 1,000,000")


@dataclass(frozen=True)
class SampleConfig:
    """How frames are drawn from a model."""

    steps: int = 50
    """Steps of the solver per frame."""
    guidance: float = 1.0
    """Classifier-free: v = v_null + guidance * (v_condition - v_null); 1: no guidance, 0: without the condition."""
    seed: int = 0
    solver: Solver = "euler"
    """euler: first order, as published. heun: second order, twice the work. adams: second order, no more work."""
    memory: int | None = None
    """Frames the model sees at once, at most. For a short model the length it was trained on: a sliding window."""
    slide: int = 1
    """Long models: frames by which the window moves at a time (published: 1). A frame then sees window - slide to
    window - 1 fine frames before it, as those of a training window do, and the window is read again once in `slide`."""
    riflex: bool = False
    """Beyond the trained length: slow the temporal frequency that would repeat (RIFLEx)."""
    temporal_decay: float = 0.0
    """Beyond the trained length: taken from the attention logits per frame of distance (FlexRoPE)."""
    graphs: bool = False
    """Record each shape of a frame's work once and replay it (CUDA graphs); on a processor it is merely computed so.
    Not yet run on a GPU (docs/speed.md)."""

    def __post_init__(self) -> None:
        at_least(self, steps=1, guidance=0, seed=0, memory=1, slide=1, temporal_decay=0)

    def overridden(self, **given: Any) -> "SampleConfig":
        """These settings, with what is given (not None) in their place. Raises UserError for impossible ones."""
        try:
            return replace(self, **{name: value for name, value in given.items() if value is not None})
        except ValueError as error:
            raise UserError(f"sampling: {error}") from None


@dataclass(frozen=True)
class WorldModelConfig:
    """A preset of `nextframe train`: the transformer, what it is trained on, and how."""

    model: TransformerConfig = field(default_factory=TransformerConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    clean_context: float = 0.1
    """Probability that a frame of the window enters training clean (section 3.2 of the paper)."""
    resampled_context: float = 0.0
    """Share of those clean frames that are not the clip's but the model's own, made in one step: so it learns to go on
    from frames like those it makes (after Resampling Forcing, arXiv 2512.15702). A step takes a forward pass more."""
    condition_dropout: float = 0.1
    """Probability that a frame is told no action (of a label: that a clip is told none); guidance needs it."""
    train: TrainConfig = field(default_factory=TrainConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)

    def __post_init__(self) -> None:
        if self.model.attention == "full" and self.clean_context:
            raise ValueError("with full attention (Video DiT) no frame enters clean: set --clean-context 0")
        window = self.model.window
        if self.sample.memory is not None and self.sample.memory < window:
            raise ValueError(f"sample.memory {self.sample.memory} is less than the window of {window} frames")
        if self.sample.slide > 1 and self.model.coarse_patch is None:
            raise ValueError("the window of a short model moves by one frame at a time: set --sample.slide 1")
        if self.sample.slide > window:
            raise ValueError(f"sample.slide {self.sample.slide} is more than the window: set --sample.slide {window}")
        if self.model.memory is not None or self.model.slide > 1 or self.model.riflex_frames is not None:
            raise ValueError("a model is trained on all it sees: set --sample.memory, .slide or .riflex instead")
        if not 0 <= self.clean_context < 1:
            raise ValueError(f"clean_context {self.clean_context} is a share of the frames: set it from 0 to below 1")
        if not 0 <= self.resampled_context <= 1:
            raise ValueError(f"resampled_context {self.resampled_context} is a share: set it from 0 to 1")
        if self.resampled_context and not self.clean_context:
            raise ValueError("without clean frames none are resampled: set --clean-context, or --resampled-context 0")
        if not 0 <= self.condition_dropout <= 1:
            raise ValueError(f"condition_dropout {self.condition_dropout} is a probability: set it from 0 to 1")
        if self.model.condition != "none" and not self.condition_dropout and self.sample.guidance not in (0, 1):
            raise ValueError(
                f"sample.guidance {self.sample.guidance} compares with a model that is told nothing, which "
                "condition_dropout 0 never trains: set --condition-dropout above 0, or --sample.guidance 1"
            )
        if self.model.turns and self.clip.interval > 1:
            raise ValueError("a compass adds up the turns of every frame: set --clip.interval 1")
        if self.clip.ramp and self.train.minutes is not None:
            raise ValueError("clip.ramp counts steps, and train.minutes ends the run before them: set --clip.ramp 0")
        if self.clip.windows > 1 and self.model.coarse_patch is None:
            raise ValueError("a short model has no coarse past that windows could share: set --clip.windows 1")
        if self.train.batch % self.clip.windows:
            raise ValueError(
                f"train.batch {self.train.batch} counts windows: clip.windows {self.clip.windows} must divide it"
            )

    @property
    def most_seen(self) -> int:
        """Frames that the model has learnt to see at once."""
        return max(self.model.window, self.clip.frames)


@dataclass(frozen=True)
class TokenizerConfig:
    """A preset of `nextframe train`: the autoencoder and its training."""

    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    latent_noise: float = 0.0
    """Noise added to the latents in training, in units of their standard deviation; makes the decoder forgiving."""
    perceptual_weight: float = 0.0
    """Of LPIPS (VGG), beside L1."""
    adversarial_weight: float = 0.0
    """Of the hinge loss of a PatchGAN discriminator, times the ratio of gradient norms at the decoder's last layer."""
    adversarial_start: float = 0.5
    """Part of the steps after which the discriminator joins, and the encoder is frozen."""
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        at_least(self, latent_noise=0, perceptual_weight=0, adversarial_weight=0, adversarial_start=0)
        if self.train.optimizer.algorithm == "muon":
            raise ValueError("train.optimizer.algorithm muon is for the matrices of a transformer: adamw")
        if self.adversarial_start > 1:
            raise ValueError(f"adversarial_start {self.adversarial_start} must be at most 1")
        if self.perceptual_weight:
            at_least(self.model, frame_size=16)  # VGG halves the resolution four times
        if self.adversarial_weight:
            at_least(self.model, frame_size=24)  # smaller frames have no patch to judge
            if self.train.minutes is not None:
                raise ValueError(
                    "adversarial_start counts steps, and train.minutes ends the run before them: "
                    "set --adversarial-weight 0"
                )
