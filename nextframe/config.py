"""Every setting of training and sampling, as frozen dataclasses: `architecture.py` has those of the networks. No torch.

A configuration is written beside the weights it belongs to (`config.yaml`) and read back strictly: an unknown name
or a value of the wrong type is refused, with the nearest real name.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nextframe.architecture import AutoencoderConfig, TransformerConfig, at_least, at_most
from nextframe.errors import UserError

Solver = Literal["euler", "even-euler", "heun", "adams"]


LARGEST_SEED = 2**63 - 1
"""Generators take no larger one."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change weights, and the weights their average."""

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
        at_most(self, decay=1, ema_decay=1)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must be at least 0 and below 1")


@dataclass(frozen=True)
class ClipConfig:
    """What one training clip is."""

    frames: int = 16
    """Frames of a clip; with min_frames, one more than the longest."""
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
    lengths and starts it would have alone (`clip_starts.py`); `batch` counts windows."""

    def __post_init__(self) -> None:
        at_least(self, frames=1, interval=1, min_frames=1, ramp=0, windows=1)
        if self.min_frames is not None and self.min_frames >= self.frames:
            raise ValueError(f"min_frames {self.min_frames} must be below frames {self.frames}: set --clip.min-frames")
        if self.windows > 1 and self.min_frames is None:
            raise ValueError("windows of one length would all be the same frames: set --clip.min-frames")

    @property
    def longest(self) -> int:
        """Frames of the longest clip that may be drawn."""
        return self.frames if self.min_frames is None else self.frames - 1

    @property
    def span(self) -> int:
        """Frames that an episode needs for it."""
        return (self.longest - 1) * self.interval + 1


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained."""

    steps: int = 400_000
    """Optimizer steps; see minutes."""
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
    """Under torchrun each process keeps a piece of the weights, not a copy (docs/training.md). Alone: no difference."""
    patience_minutes: float = 10.0
    """Under torchrun: how long a process waits for the others, which may be compiling or writing, before it ends."""
    recompute: bool = False
    """Activation checkpointing: compute the inside of each transformer block again for the backward pass. Less memory,
    more time."""
    checkpoint_minutes: float = 10.0
    """How often a checkpoint is written."""
    examine_minutes: float | None = 10.0
    """So often, and at the end, the averaged weights are tried on held-out clips (docs/training.md). None: never."""
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
        at_most(self, seed=LARGEST_SEED, patience_minutes=1_000_000)
        at_least(self, minutes=0.001, patience_minutes=0.001, examine_minutes=0)


MOST_STEPS = 10_000
"""Of a solver: what all of them do to the network is computed in one go."""


@dataclass(frozen=True)
class SampleConfig:
    """How frames are drawn from a model."""

    steps: int = 50
    """Steps of the solver per frame."""
    guidance: float = 1.0
    """Classifier-free: v = v_null + guidance * (v_condition - v_null); 1: none, 0: without the condition."""
    seed: int = 0
    solver: Solver = "euler"
    """euler: first order, as published: the last of its steps is 0.001 long. The others' are all of one length.
    even-euler: first order. heun: second order, twice the work. adams: second order, no more work."""
    memory: int | None = None
    """Most frames visible at once, the new one included; at least the window (of a short model its trained length),
    which gives a sliding window. With more, the oldest are forgotten in blocks of (memory - window) / 4, because
    forgetting means reading the rest again. None: all are seen."""
    slide: int = 1
    """Long models: frames by which the window moves at a time (published: 1). A frame then sees window - slide to
    window - 1 fine frames before it, as those of a training window do, and the window is read again once in `slide`."""
    riflex: bool = False
    """Beyond the trained length: slow the temporal frequency that would repeat (RIFLEx)."""
    temporal_decay: float = 0.0
    """Taken from the attention logits per frame of distance, at any length (FlexRoPE); for rollouts beyond the trained
    length."""
    graphs: Literal["auto", "on", "off"] = "auto"
    """Record each shape of a frame's work once and replay it (CUDA graphs), for rollouts stepped by themselves.
    auto: on a GPU; one that cannot record says so and goes on without. on: it fails then; a processor computes alike.
    """

    def __post_init__(self) -> None:
        at_least(self, steps=1, guidance=0, seed=0, memory=1, slide=1, temporal_decay=0)
        at_most(self, steps=MOST_STEPS, seed=LARGEST_SEED)

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
        at_least(self, clean_context=0, resampled_context=0, condition_dropout=0)
        at_most(self, resampled_context=1, condition_dropout=1)
        if self.clean_context >= 1:
            raise ValueError(f"clean_context {self.clean_context} is a share: set --clean-context below 1")
        if self.resampled_context and not self.clean_context:
            raise ValueError("without clean frames none are resampled: set --clean-context, or --resampled-context 0")
        if self.sample.guidance != 1 and self.model.condition == "none":
            raise ValueError(f"sample.guidance {self.sample.guidance}: this model is told nothing: --sample.guidance 1")
        if self.sample.guidance != 1 and not self.condition_dropout:
            raise ValueError(
                f"sample.guidance {self.sample.guidance} needs a model that is told nothing, which "
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
        """Frames visible at once in training. (Of a long model one more: its clips have at most `frames` - 1.)"""
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
    """Of the generator's loss, -mean(D(reconstruction)) of a PatchGAN discriminator D, times the ratio of gradient
    norms at the decoder's last layer (VQGAN, arXiv 2012.09841, equation 7)."""
    adversarial_start: float = 0.5
    """Part of the steps after which the discriminator joins, and the encoder is frozen."""
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        at_least(self, latent_noise=0, perceptual_weight=0, adversarial_weight=0, adversarial_start=0)
        if self.train.optimizer.algorithm == "muon":
            raise ValueError("train.optimizer.algorithm muon is for the matrices of a transformer: adamw")
        at_most(self, adversarial_start=1)
        if self.perceptual_weight:
            at_least(self.model, frame_size=16)  # VGG halves the resolution four times
        if self.adversarial_weight:
            at_least(self.model, frame_size=24)  # smaller frames have no patch to judge
            if self.train.minutes is not None:
                raise ValueError(
                    "adversarial_start counts steps, and train.minutes ends the run before them: "
                    "set --adversarial-weight 0"
                )
