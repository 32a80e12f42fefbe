"""The names of the published checkpoints (guyuchao/FAR_Models), and of ours."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nextframe.config import TransformerConfig

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


def published_sources(name: str) -> tuple[str, ...]:
    """The published name of one of our weights; two for keys and values, which we keep in one matrix.

    Raises KeyError for a name that has no counterpart.
    """
    stem, _, kind = name.rpartition(".")
    if stem == "condition":
        return ("action_embedder.embedding_table.weight", "label_embedder.embedding_table.weight")
    if stem in _SINGLE:
        return (f"{_SINGLE[stem]}.{kind}",)
    _, index, part = stem.split(".", 2)
    theirs = _BLOCK_KEY_VALUE.get(part) or (_BLOCK[part],)
    return tuple(f"transformer_blocks.{index}.{their}.{kind}" for their in theirs)


def from_published(weights: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Our state dict, with these `names`, from a published one.

    Published weights that never had a gradient (the coarse level's output head, its queries in the last block) have
    no place here and are left out.
    """
    ours = {}
    for name in names:
        sources = published_sources(name)
        if name.startswith("condition."):
            sources = tuple(source for source in sources if source in weights)
        ours[name] = torch.cat([weights[source] for source in sources])
    return ours


def config_from_published(kind: str, config: Mapping[str, Any], latent_size: int) -> TransformerConfig:
    """Our configuration from the keyword arguments of the published classes `FAR` and `FAR_Long`."""
    condition: Mapping[str, Any] = config.get("condition_cfg") or {"type": "none"}
    return TransformerConfig(
        latent_channels=config["in_channels"],
        latent_size=latent_size,
        layers=config["num_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
        rope_axes=tuple(config["axes_dims_rope"]),
        patch=config.get("patch_size", 1),
        coarse_patch=config["context_patch_size"] if kind == "FAR_Long" else None,
        window=config["short_term_ctx_winsize"],
        condition=condition["type"],
        classes=condition.get("num_classes") or condition.get("num_action_classes") or 0,
        action_of="departure",
        temporal_decay=float(config["slope_scale"]),
    )
