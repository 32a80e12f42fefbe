"""The names of the weights in the published checkpoints (guyuchao/FAR_Models), and in ours."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nextframe.architecture import TransformerConfig

# Ours -> theirs, for everything that is renamed one to one. `{i}` is the block.
_SINGLE = {
    "embed.0": "x_embedder",
    "embed.1": "context_embedder",
    "time.expand": "timestep_embedder.linear_1",
    "time.project": "timestep_embedder.linear_2",
    "final_modulation.linear": "norm_out.linear",
    "head": "proj_out",
}
_BLOCK = {
    "attention_modulation.linear": "norm1.linear",
    "mlp_modulation.linear": "norm2.linear",
    "mlp.0": "mlp.net.0.proj",
    "mlp.2": "mlp.net.2",
    "attention.levels.0.query": "attn.to_q",
    "attention.levels.0.query_norm": "attn.norm_q",
    "attention.levels.0.key_norm": "attn.norm_k",
    "attention.levels.0.output": "attn.to_out.0",
    "attention.levels.1.query": "attn.add_q_proj",
    "attention.levels.1.query_norm": "attn.norm_added_q",
    "attention.levels.1.key_norm": "attn.norm_added_k",
    "attention.levels.1.output": "attn.to_add_out",
}
_BLOCK_KEY_VALUE = {
    "attention.levels.0.key_value": ("attn.to_k", "attn.to_v"),
    "attention.levels.1.key_value": ("attn.add_k_proj", "attn.add_v_proj"),
}


# The published autoencoder is diffusers' class, and ours wraps it.
AUTOENCODER_PREFIX = "network."
# The published latents are multiplied with this; it is in the configuration there, not among the weights.
PUBLISHED_SCALE = 0.2889


def condition_table(condition: str) -> str:
    """The published name of the embedding of labels or actions."""
    return f"{condition}_embedder.embedding_table.weight"


def published_sources(name: str) -> tuple[str, ...]:
    """The published name of one of our weights; two for keys and values, which we keep in one matrix.

    The table of conditions goes by two names there as well, of which a file has one. Raises KeyError for a name that
    has no counterpart.
    """
    stem, _, kind = name.rpartition(".")
    if stem == "condition":
        return (condition_table("action"), condition_table("label"))
    if stem in _SINGLE:
        return (f"{_SINGLE[stem]}.{kind}",)
    _, index, part = stem.split(".", 2)
    theirs = _BLOCK_KEY_VALUE.get(part) or (_BLOCK[part],)
    return tuple(f"transformer_blocks.{index}.{their}.{kind}" for their in theirs)


def without_effect(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published weights that ours has no place for: they never reach an output.

    The coarse level's output head, and its queries in the last block.
    """
    if config.coarse_patch is None:
        return {}
    outputs, last = config.coarse_patch**2 * config.latent_channels, f"transformer_blocks.{config.layers - 1}.attn"
    return {
        "context_proj_out.weight": (outputs, config.width),
        "context_proj_out.bias": (outputs,),
        f"{last}.add_q_proj.weight": (config.width, config.width),
        f"{last}.add_q_proj.bias": (config.width,),
        f"{last}.norm_added_q.weight": (config.head_dim,),
    }


def from_published(weights: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Our state dict, with these `names`, from a published one. Those of `without_effect` are left out.

    Raises KeyError for a weight that is not there.
    """
    ours = {}
    for name in names:
        sources = published_sources(name)
        if name.startswith("condition."):
            sources = tuple(source for source in sources if source in weights)
        parts = [weights[source] for source in sources]
        ours[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return ours


def to_published(weights: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """The inverse of `from_published`: a state dict that the published classes load, views of ours where possible.

    Those of `without_effect` are zeros, or ones in a norm.
    """
    theirs: dict[str, Tensor] = {}
    for name, weight in weights.items():
        sources = published_sources(name)
        if name.startswith("condition."):
            sources = (condition_table(config.condition),)
        theirs.update(zip(sources, weight.chunk(len(sources)), strict=True))
    like = weights["head.bias"]
    for name, shape in without_effect(config).items():
        theirs[name] = like.new_ones(shape) if "norm" in name else like.new_zeros(shape)
    return theirs
