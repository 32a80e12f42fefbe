"""Which model a published state dict is of, from the names and shapes in it."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nextframe.architecture import AutoencoderConfig, Condition, TransformerConfig
from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import misfits
from nextframe.errors import some_of
from nextframe.published.names import AUTOENCODER_PREFIX, condition_table, to_published
from nextframe.transformer import Transformer

LATENT_SIZE = 8
"""Rows and columns of the latents of every published model. No weight tells it."""
_TRANSFORMER, _AUTOENCODER = "x_embedder.weight", "encoder.conv_out.weight"


def recognise(weights: Mapping[str, Tensor], latent_size: int = LATENT_SIZE) -> TransformerConfig | AutoencoderConfig:
    """The configuration of the model that a published state dict belongs to, every weight of it in its place.

    Raises ValueError, in words that go on from the name of the file, for one that is of no such model.
    """
    if _TRANSFORMER in weights:
        config: TransformerConfig | AutoencoderConfig = transformer_config(weights, latent_size)
    elif _AUTOENCODER in weights:
        config = autoencoder_config(weights, latent_size)
    else:
        raise ValueError(
            f"has the weights of no FAR transformer and of no DC-AE ({_TRANSFORMER} and {_AUTOENCODER} are missing); "
            f"it begins with {some_of(list(weights), 3)}"
        )
    problem = misfits(weights, published_weights_of(config))
    if problem:
        raise ValueError(f"is almost {model_in_words(config)}, but does not fit: {problem}")
    return config


def model_in_words(config: TransformerConfig | AutoencoderConfig) -> str:
    """A model in a few words."""
    if isinstance(config, AutoencoderConfig):
        return (
            f"a DC-AE, one latent for each {config.compression} x {config.compression} pixels, "
            f"{config.latent_channels} channels, {config.decoder_norm} in its decoder"
        )
    kind = "short" if config.coarse_patch is None else f"long (coarse patches of {config.coarse_patch})"
    told = "no condition" if config.condition == "none" else f"{config.classes} {config.condition}s"
    return f"a {kind} FAR of {config.layers} layers, {config.heads} heads of {config.head_dim}, {told}"


def transformer_config(weights: Mapping[str, Tensor], latent_size: int) -> TransformerConfig:
    """The configuration of a published transformer. Raises ValueError where names or shapes make no sense.

    Not in the weights, and so taken from the published models: patches of one latent, a window of 16 frames, the
    parts of a head that turn with frame, row and column.
    """
    width, channels = _shape(weights, _TRANSFORMER, 2)
    (head_dim,) = _shape(weights, "transformer_blocks.0.attn.norm_q.weight", 1)
    coarse_patch = None
    if "context_embedder.weight" in weights:
        coarse_patch = math.isqrt(_shape(weights, "context_embedder.weight", 2)[1] // channels)
    blocks = _numbers(weights, r"transformer_blocks\.(\d+)\.")
    gaps = set(range(max(blocks))) - blocks if max(blocks) < len(weights) else {max(blocks) - 1}
    if gaps:
        raise ValueError(f"has no transformer_blocks.{min(gaps)}, but later ones")
    condition: Condition = "none"
    if condition_table("label") in weights:
        condition = "label"
    elif condition_table("action") in weights:
        condition = "action"
    turning = 2 * (3 * head_dim // 16)  # three eighths with the row, as many with the column, in pairs
    return TransformerConfig(
        latent_channels=channels,
        latent_size=latent_size,
        layers=len(blocks),
        heads=width // head_dim,
        head_dim=head_dim,
        rope_axes=(head_dim - 2 * turning, turning, turning),
        coarse_patch=coarse_patch,
        condition=condition,
        # The last row of the table is no class: it is the null condition.
        classes=_shape(weights, condition_table(condition), 2)[0] - 1 if condition != "none" else 0,
        action_of="departure",
    )


def autoencoder_config(weights: Mapping[str, Tensor], latent_size: int) -> AutoencoderConfig:
    """The configuration of a published DC-AE. Raises ValueError where names or shapes make no sense.

    Not in the weights: the activation of the decoder's residual blocks, which goes with their norm here as it does in
    every published model.
    """
    encoder = _stages(weights, "encoder.down_blocks")
    decoder = _stages(weights, "decoder.up_blocks")
    batch_norm = any(name.endswith(".norm.running_mean") for name in weights)
    return AutoencoderConfig(
        frame_size=latent_size * 2 ** (len(encoder) - 1),
        latent_channels=_shape(weights, _AUTOENCODER, 4)[0],
        encoder_channels=tuple(stage.channels for stage in encoder),
        encoder_layers=tuple(stage.layers for stage in encoder),
        decoder_channels=tuple(stage.channels for stage in decoder),
        decoder_layers=tuple(stage.layers for stage in decoder),
        attention_stages=sum(stage.attention for stage in encoder),
        decoder_norm="batch_norm" if batch_norm else "rms_norm",
        decoder_activation="relu" if batch_norm else "silu",
    )


def published_weights_of(config: TransformerConfig | AutoencoderConfig) -> dict[str, Tensor]:
    """Names and shapes, on the meta device, of the published state dict of a model."""
    with torch.device("meta"):
        if isinstance(config, TransformerConfig):
            return to_published(Transformer(config).state_dict(), config)
        return autoencoder_to_published(Autoencoder(config).state_dict())


def autoencoder_to_published(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the network that ours wraps. The scale is no weight there."""
    return {name.removeprefix(AUTOENCODER_PREFIX): weight for name, weight in weights.items() if name != "scale"}


@dataclass(frozen=True)
class _Stage:
    """One resolution of a DC-AE."""

    channels: int
    layers: int
    attention: bool


def _stages(weights: Mapping[str, Tensor], prefix: str) -> list[_Stage]:
    """The stages of an encoder or decoder, the finest first."""
    stages = []
    for index in range(1 + max(_numbers(weights, rf"{prefix}\.(\d+)\."), default=0)):
        start = rf"{prefix}\.{index}\.(\d+)"
        residual = _numbers(weights, rf"{start}\.conv1\.weight")
        attention = _numbers(weights, rf"{start}\.attn\.to_q\.weight")
        if not residual and not attention and index:
            raise ValueError(f"has no {prefix}.{index}, but later ones")
        channels = 0
        if residual:
            channels = _shape(weights, f"{prefix}.{index}.{min(residual)}.conv1.weight", 4)[0]
        elif attention:
            channels = _shape(weights, f"{prefix}.{index}.{min(attention)}.attn.to_q.weight", 2)[1]
        stages.append(_Stage(channels, len(residual | attention), bool(attention)))
    if not stages[0].layers:
        if len(stages) == 1:
            raise ValueError(f"has no {prefix}")
        # An empty first stage is not computed; every published model calls it half as wide as the second.
        stages[0] = _Stage(max(1, stages[1].channels // 2), 0, False)
    return stages


def _numbers(weights: Iterable[str], pattern: str) -> set[int]:
    """The numbers in the names that begin with `pattern`."""
    return {int(match[1]) for name in weights if (match := re.match(pattern, name))}


def _shape(weights: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in weights:
        raise ValueError(f"has no {name}")
    shape = tuple(weights[name].shape)
    if len(shape) != dimensions or not all(shape):
        raise ValueError(f"has a {name} of shape {list(shape)}, where {dimensions} dimensions are wanted")
    return shape
