"""Every setting of the two networks, the transformer and the autoencoder, as frozen dataclasses. No torch in here."""

import math
from dataclasses import dataclass
from typing import Literal

import tyro

Condition = Literal["none", "label", "action", "vector"]


def at_least(settings: object, **smallest: float) -> None:
    """Raises ValueError naming the first field that is below its smallest value."""
    for name, least in smallest.items():
        value = getattr(settings, name)
        if value is not None and not value >= least:  # also refuses nan
            raise ValueError(f"{name} is {value}: it must be at least {least}")


def at_most(settings: object, **largest: float) -> None:
    """Raises ValueError naming the first field that is above its largest value."""
    for name, most in largest.items():
        value = getattr(settings, name)
        if value is not None and not value <= most:
            raise ValueError(f"{name} is {value}: it must be at most {most}")


MOST_LAYERS = 1000
"""So that a configuration that somebody else wrote keeps nobody waiting."""


@dataclass(frozen=True)
class TransformerConfig:
    """The FAR transformer.

    Sections and equations named in the code are those of arXiv 2503.19325v3.
    """

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
    """Frames in the fine level, the newest included. A short model has that level alone, and sees all frames."""
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
    """FlexRoPE (first version of the paper): taken from the attention logits per frame between key and query."""
    riflex_frames: tyro.conf.Suppress[int | None] = None
    """RIFLEx (arXiv 2502.15894): the lowest temporal frequency that would repeat within so many frames is slowed until
    one period covers them; higher ones still repeat. None: plain RoPE. Not for training: --sample.riflex sets it."""
    memory: tyro.conf.Suppress[int | None] = None
    """Frames that are seen at once, at most, the newest included; older ones are forgotten. None: all. Not for
    training: --sample.memory sets it."""
    slide: tyro.conf.Suppress[int] = 1
    """Frames by which the window of a long model moves at a time; in between it holds fewer than `window`. Not for
    training: --sample.slide sets it."""

    def __post_init__(self) -> None:
        at_least(self, latent_channels=1, latent_size=1, layers=1, heads=1, head_dim=2, window=1, temporal_decay=0)
        at_least(self, classes=0, action_size=0, headings=1, riflex_frames=1, memory=self.window, slide=1)
        at_most(self, layers=MOST_LAYERS)
        if self.slide > self.window:
            raise ValueError(f"slide {self.slide} must be at most window {self.window}")
        if self.slide > 1 and self.coarse_patch is None:
            raise ValueError("a short model has no window that slides over a coarse past: slide must be 1")
        if any(axis % 2 for axis in self.rope_axes):
            raise ValueError(f"rope_axes {self.rope_axes} must be even: channels turn in pairs")
        if bool(self.turns) != (self.headings > 1):
            raise ValueError(f"turns {self.turns} and headings {self.headings}: a compass needs both, else neither")
        if any(abs(turn) > self.headings for turn in self.turns):
            raise ValueError(f"turns {self.turns}: none may be more than a full circle, of {self.headings} headings")
        if self.turns and (self.condition, self.action_of, self.attention) != ("action", "arrival", "frame-causal"):
            raise ValueError("a compass adds up the actions that led to each frame: this model is told none, turns=()")
        if self.turns and len(self.turns) != self.classes:
            raise ValueError(
                f"turns {self.turns} must have a number for each of the {self.classes} actions: set --model.turns, or "
                "train the preset footage, which has no compass"
            )
        if sum(self.rope_axes) + 2 * len(self.compass) != self.head_dim:
            compass = f" and the compass's {2 * len(self.compass)}" if self.compass else ""
            raise ValueError(f"rope_axes {self.rope_axes}{compass} must add up to head_dim {self.head_dim}")
        if self.condition in ("label", "action") and self.classes < 1:
            raise ValueError(f"condition {self.condition!r} needs classes >= 1")
        if self.condition == "vector" and self.action_size < 1:
            raise ValueError("condition 'vector' needs action_size >= 1")
        if self.attention == "full" and (self.coarse_patch is not None or self.temporal_decay):
            raise ValueError("full attention sees all frames alike: coarse_patch must be None, temporal_decay 0")
        for name, patch in (("patch", self.patch), ("coarse_patch", self.coarse_patch)):
            if patch is not None and (patch < 1 or self.latent_size % patch):
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
        """Frequency of each of its pairs of channels, in turns per full circle: 1, 2, 4 ... to half of `headings`."""
        return tuple(2**power for power in range(self.headings.bit_length() - 1))

    @property
    def null_condition(self) -> float:
        """What stands for no condition: in every number of a vector, or as an id."""
        return math.nan if self.condition == "vector" else self.classes


@dataclass(frozen=True)
class AutoencoderConfig:
    """A DC-AE (`diffusers.AutoencoderDC`)."""

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
        if 0 in (*self.encoder_layers[1:-1], *self.decoder_layers[1:-1]):
            raise ValueError("only the first and the last stage may have 0 layers: one between would not resample")
        if not 0 <= self.attention_stages <= stages:
            raise ValueError(f"attention_stages is {self.attention_stages}: it must be 0 to {stages}")
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
