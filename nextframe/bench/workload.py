"""What `nextframe bench` is asked to measure. No torch in here: `--help` is quick."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nextframe.architecture import at_least
from nextframe.config import Solver
from nextframe.errors import UserError


def _at_least(settings: object, **smallest: float) -> None:
    """Raises UserError naming the first option that is below its smallest value."""
    try:
        at_least(settings, **smallest)
    except ValueError as error:
        raise UserError(f"--{error}") from None


@dataclass(frozen=True)
class Subject:
    """Which model is measured, on what, for how long, and how the result is printed."""

    preset: str = "maze"
    """A preset of `nextframe train` for a world model, with random weights."""
    model: Path | None = None
    """Run of a world model, in place of a preset."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the matrix products. auto: bfloat16 where the hardware has it."""
    repeats: int = 3
    """Measure at least so many times (sample: so many rollouts), warm-up left out."""
    seconds: float = 10.0
    """And for at least so long."""
    json: bool = False
    """Print one JSON object in place of a table."""

    def __post_init__(self) -> None:
        _at_least(self, repeats=1, seconds=0)


@dataclass(frozen=True)
class TrainBench:
    """Time training steps: forward and backward, and the whole step with its optimizer and average.

    On random latents and random weights: no data is needed.
    """

    subject: Subject = field(default_factory=Subject)
    batch: int = 1
    """Clips per step."""
    frames: int = 16
    """Frames per clip."""
    windows: int = 1
    """Windows that share the coarse past of a clip, all at its end. In training their lengths differ, and less is
    shared."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the network; auto: on a GPU, as in training."""
    float8: Literal["off", "on", "emulated"] = "off"
    """Multiply in 8-bit floats, as in training."""
    flex_attention: bool = False
    """Attend by FlexAttention, as in training."""
    against: Path | None = None
    """Python file that does the same work in another way, timed in turns with ours. It is run as it is: use only a
    file you trust. Its form: docs/speed.md."""

    def __post_init__(self) -> None:
        _at_least(self, batch=1, frames=1, windows=1)
        if self.windows > 1 and self.against is not None:
            raise UserError("--against computes one window a clip: leave --windows at 1")


@dataclass(frozen=True)
class FrameBench:
    """What `bench sample` and `bench play` have in common."""

    subject: Subject = field(default_factory=Subject)
    context: int = 144
    """Frames that a rollout goes on from."""
    steps: int | None = None
    """Steps per frame; the model's own setting if not given."""
    solver: Solver | None = None
    """Its solver; the model's own setting if not given."""
    slide: int | None = None
    """Frames by which its window moves at a time; the model's own setting if not given."""
    guidance: float | None = None
    """Any value but 0 and 1 computes everything twice; the model's own setting if not given."""
    graphs: Literal["auto", "on", "off"] = "auto"
    """Record frames and replay them (CUDA graphs; docs/speed.md), whatever the model's own setting is. auto: on a
    GPU."""
    autoencoder: str | None = None
    """Preset of the autoencoder that decodes; the first that fits the latents if not given (8x for the paper's
    models). A run has its own."""

    def __post_init__(self) -> None:
        _at_least(self, context=0)


@dataclass(frozen=True)
class SampleBench(FrameBench):
    """Time the frames of a rollout: the transformer alone, and with decoding to uint8 on the CPU.

    On random latents, with random weights unless a run is named: no data is needed.
    """

    guidance: float | None = 1.0
    """1: none, whatever the model's own setting is. Any value but 0 and 1 computes everything twice."""
    batch: int = 1
    """Rollouts side by side."""
    frames: int = 16
    """Frames that are timed per rollout, after a first one, which reads the context."""
    decode: bool = True
    """Also decode every frame."""
    against: Path | None = None
    """Python file that does the same work (the transformer's) in another way, timed in turns with ours. It is run as
    it is: use only a file you trust. Its form: docs/speed.md."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(self, batch=1, frames=1)
        if self.autoencoder is not None and not self.decode:
            raise UserError("--no-decode decodes nothing: leave out --autoencoder")


@dataclass(frozen=True)
class PlayBench(FrameBench):
    """Time what a person waits for: from an action to the decoded uint8 frame on the CPU, one walk, a long context.

    On random latents, with random weights unless a run is named: no data is needed.
    """


Workload = TrainBench | SampleBench | PlayBench
WORKLOADS: dict[str, type[Workload]] = {"train": TrainBench, "sample": SampleBench, "play": PlayBench}
