"""Run folders: a trained model with its configuration, ready to use."""

import math
import operator
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import SupportsIndex, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from nextframe.architecture import TransformerConfig
from nextframe.autoencoder import Autoencoder, decode_video, encode_video
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, check_fit, read_weights, write_weights
from nextframe.conditions import actions_for_frames
from nextframe.config import SampleConfig, TokenizerConfig, WorldModelConfig
from nextframe.configfile import RunConfig, read_config, require_fit, write_config
from nextframe.devices import matrix_precision, prepare_for_inference, resolve_precision
from nextframe.errors import UserError, reason_of
from nextframe.files import new_folder, sha256
from nextframe.hub import local_run
from nextframe.metadata import Metadata, read_metadata, write_metadata
from nextframe.session import Session, alike, step_together
from nextframe.transformer import Transformer, parameters_of

Action = SupportsIndex | str | Sequence[float]
"""A number, a name where the model knows names (`Metadata`), or a vector of numbers."""
WHAT = {WorldModelConfig: "a world model", TokenizerConfig: "an autoencoder"}
Actions = Tensor | np.ndarray | Sequence[Action]
"""Of a clip: int64 [f], or float32 [f, a] where they are vectors, or what becomes that."""
C = TypeVar("C", bound=RunConfig)
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class WorldModel:
    """A transformer and the autoencoder it thinks in."""

    config: WorldModelConfig
    transformer: Transformer
    autoencoder: Autoencoder
    sha256: str
    """Of the transformer's weights."""
    precision: torch.dtype = torch.float32
    """Of the matrix products; the weights that go into them are kept in it."""
    metadata: Metadata = field(default_factory=Metadata)

    def __repr__(self) -> str:
        """Short: by itself a dataclass shows every layer."""
        size, weights = self.autoencoder.config.frame_size, parameters_of(self.transformer)
        return f"<WorldModel of {weights:,} weights, frames of {size} x {size} pixels, on {self.device}>"

    @property
    def _latent_shape(self) -> str:
        return ", ".join(map(str, self.config.model.latent_shape))

    @property
    def device(self) -> torch.device:
        return self.autoencoder.scale.device

    def at_work(self) -> AbstractContextManager[object]:
        """The precision of the matrix products, for all that is computed within."""
        return matrix_precision(self.precision, self.device)

    def walk(
        self,
        video: Tensor | np.ndarray,
        actions: Actions | None = None,
        sample: SampleConfig | None = None,
        most_frames: int = 600,
        label: SupportsIndex | str | None = None,
    ) -> "Walk":
        """Walk on from a clip.

        `video`: uint8 [f, height, width, 3], f >= 1. `actions`: those that led from each frame to the next, int64
        [f - 1], or float32 [f - 1, a] where they are vectors. `most_frames`: room for so many frames, the clip
        included. `label`: what the clip shows, for a model of labels. Raises ValueError for frames of another size, for
        actions or a label that the model does not have, and for too little room; UserError for settings of sampling
        that it cannot follow.
        """
        return self.walk_on(self.encode(video), actions, sample, most_frames, label)

    def walk_on(
        self,
        latents: Tensor,
        actions: Actions | None = None,
        sample: SampleConfig | None = None,
        most_frames: int = 600,
        label: SupportsIndex | str | None = None,
    ) -> "Walk":
        """The same for a clip that is latents already, [f, c, h, w], f >= 1: those of another walk, say."""
        if latents.ndim != 4 or not len(latents) or tuple(latents.shape[1:]) != self.config.model.latent_shape:
            raise ValueError(f"expected latents [f >= 1, {self._latent_shape}], not {list(latents.shape)}")
        return Walk(self, latents, actions, label, sample or self.config.sample, most_frames)

    def encode(self, video: Tensor | np.ndarray) -> Tensor:
        """uint8 [f, height, width, 3] -> scaled latents [f, c, h, w]. Raises ValueError for another size."""
        size = self.autoencoder.config.frame_size
        video = torch.tensor(video) if isinstance(video, np.ndarray) else video
        if video.dtype != torch.uint8 or video.shape[1:] != (size, size, 3) or not len(video):
            raise ValueError(f"expected uint8 [f >= 1, {size}, {size}, 3], not {video.dtype} {tuple(video.shape)}")
        with self.at_work():
            return encode_video(self.autoencoder, video)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [f, c, h, w] -> uint8 [f, height, width, 3] on the CPU. Raises ValueError for other shapes."""
        if latents.ndim != 4 or tuple(latents.shape[1:]) != self.config.model.latent_shape:
            raise ValueError(f"expected latents [f, {self._latent_shape}], not {list(latents.shape)}")
        with self.at_work():
            return decode_video(self.autoencoder, latents)


class Walk:
    """One walk through a world: a frame for every action."""

    def __init__(
        self,
        model: WorldModel,
        latents: Tensor,
        actions: Actions | None,
        label: SupportsIndex | str | None,
        sample: SampleConfig,
        most_frames: int,
    ) -> None:
        self.model = model
        conditions = clip_conditions(model.config.model, len(latents), actions, label, model.metadata)
        self._label = None if conditions is None else conditions[:1]  # of a model of labels
        if conditions is not None:
            conditions = conditions[None].to(model.device)
        with model.at_work():
            own = latents[None].to(model.device)
            self.session = Session(model.transformer, own, conditions, most_frames, sample)

    @property
    def latents(self) -> Tensor:
        """All frames so far, the clip's too, [f, c, h, w]: a copy, which later steps leave as it is."""
        return self.session.latents[0].clone()

    @property
    def frames(self) -> int:
        return self.session.frames

    @property
    def most_frames(self) -> int:
        return self.session.capacity

    def step(self, action: Action | None = None) -> Tensor:
        """The frame that `action`, taken at the last one, leads to: uint8 [height, width, 3].

        Models without actions need none. Raises ValueError for an action the model does not have, and when
        there is no room left (`grow` makes more).
        """
        return self.model.decode(self.imagine(action)[None])[0]

    def imagine(self, action: Action | None = None) -> Tensor:
        """The same, not decoded: latents [c, h, w]."""
        return imagine_together([self], [action])[0]

    def read_ahead(self) -> None:
        """Do what can be done for the next frame before its action is known; nothing but its time is changed."""
        with self.model.at_work():
            self.session.read_ahead()

    def tell(self, action: Action | None) -> Tensor | None:
        """Note what is done at the newest frame, where a model is told that (`departure`); returns what the next is
        conditioned on when `action` leads to it. Raises ValueError as `step` does.
        """
        config = self.model.config.model
        if config.condition == "none":
            return None
        if config.condition == "label":
            return self._label
        condition = action_tensor(config, action, self.model.metadata.action_names)[None]
        if config.action_of == "arrival":
            return condition
        # The last frame was made when nobody knew what would be done in it; now that is known.
        self.session.amend(condition)
        return torch.full_like(condition, config.null_condition)

    def rewind(self, frames: int) -> None:
        """Go back to the time when there were `frames` frames, at least 1, the clip's included; go on from there.

        What was done at the last of them is open again: the next step says it, and whatever is told what was done
        *at* a frame (`departure`) is told anew. Raises ValueError for a number of frames that there is not.
        """
        if not isinstance(frames, SupportsIndex) or not 1 <= operator.index(frames) <= self.frames:
            raise ValueError(f"cannot go back to {frames} of {self.frames} frames")
        self.session.rewind(frames)

    def grow(self, most_frames: int) -> None:
        """Make room for so many frames."""
        self.session.grow(most_frames)


@torch.no_grad()
def imagine_together(walks: Sequence[Walk], actions: Sequence[Action | None]) -> list[Tensor]:
    """`Walk.imagine` of each, for walks of one model: those with equal settings in one pass, wherever they are."""
    told = [walk.tell(action) for walk, action in zip(walks, actions, strict=True)]
    made: dict[int, Tensor] = {}
    with walks[0].model.at_work():
        for places in alike([walk.session.kind for walk in walks]):
            frames = step_together([walks[place].session for place in places], [told[place] for place in places])
            made |= {place: frame[0] for place, frame in zip(places, frames, strict=True)}
    return [made[place] for place in range(len(walks))]


def clip_conditions(
    config: TransformerConfig,
    frames: int,
    actions: Actions | None,
    label: SupportsIndex | str | None,
    metadata: Metadata,
) -> Tensor | None:
    """What the frames of a clip are conditioned on: int64 [f], float32 [f, a], or None for a model without conditions.

    `actions`: a tensor, or what becomes one, names too; nan for a vector nobody knows. `label`: a number or a name.
    Raises ValueError when the number of actions, one of them, or the label does not fit.
    """
    if label is not None and config.condition != "label":
        raise ValueError(f"label {label!r}: this model knows no labels")
    if config.condition == "none":
        return None
    if config.condition == "label":
        number = metadata.label_names.index(label) if label in metadata.label_names else label
        if not isinstance(number, SupportsIndex) or not 0 <= operator.index(number) < config.classes:
            how = ", label=..." if label is None else ""
            raise ValueError(f"label {label!r} is none of the model's: choose 0 to {config.classes - 1}{how}")
        return torch.full((frames,), operator.index(number))
    one = torch.full((config.action_size,), math.nan) if config.condition == "vector" else torch.tensor(config.classes)
    if actions is None:
        taken = one.expand(frames - 1, *one.shape)
    elif isinstance(actions, Sequence) and any(isinstance(action, str) for action in actions):
        taken = torch.stack([action_tensor(config, action, metadata.action_names) for action in actions])
    else:
        taken = torch.as_tensor(actions)
    if taken.shape != (wanted := (frames - 1, *one.shape)):
        raise ValueError(f"{frames} frames have actions {list(wanted)} between them, not {list(taken.shape)}")
    told = taken.to(one.dtype)
    if config.condition == "action" and not ((told == taken) & (told >= 0) & (told <= config.classes)).all():
        raise ValueError(f"not all of {taken.tolist()} are actions of the model: choose 0 to {config.classes - 1}")
    if config.condition == "vector" and not known(told).all():
        raise ValueError(f"action {int((~known(told)).nonzero()[0])} of the clip has numbers that are not finite")
    # Nobody has acted at the last frame yet.
    return actions_for_frames(config, torch.cat([told, one[None]]))


def known(vectors: Tensor) -> Tensor:
    """[f, a] -> bool [f]: which can be told to a model: finite ones, or all nan, which is no action."""
    return vectors.isfinite().all(dim=1) | vectors.isnan().all(dim=1)


def action_tensor(config: TransformerConfig, action: Action | None, names: Sequence[str]) -> Tensor:
    """An action as a condition: int64 [] or float32 [a]. Raises ValueError for one the model does not have."""
    none_such = f"action {action!r} is none of the model's"
    if config.condition == "vector":
        numbers = [] if action is None or isinstance(action, str) else action
        vector = torch.as_tensor(numbers, dtype=torch.float32)
        if vector.shape != (config.action_size,) or not known(vector[None]).all():
            raise ValueError(f"{none_such}: give {config.action_size} numbers")
        return vector
    index = -1
    if isinstance(action, str):
        index = names.index(action) if action in names else -1
    elif isinstance(action, SupportsIndex):  # integers of numpy and torch too
        with suppress(TypeError):  # a tensor of another kind
            index = operator.index(action)
    if not 0 <= index <= config.classes:
        named = f", or {', '.join(names)}" if names else ""
        raise ValueError(f"{none_such}: choose 0 to {config.classes - 1}{named}")
    return torch.tensor(index)


def load(run: Path | str, device: str | torch.device = "cpu", precision: str = "auto") -> WorldModel:
    """The world model of a run, its averaged weights, ready to sample.

    `run`: a folder, or a name on the hub (`hub.local_run`). `precision` of the matrix products: auto, float32 or
    bfloat16. Raises UserError when the run is none, has no autoencoder, or is just being written.
    """
    run = local_run(run)
    config = world_config(run)
    if not (run / AUTOENCODER).exists():
        way_out = f"nextframe convert DCAE_FILE.pth --out {run / AUTOENCODER}"
        raise UserError(f"{run} has no autoencoder yet, so it cannot see or show frames: add one with {way_out}")
    require_fit(config, read_config(run / AUTOENCODER / CONFIG), run / AUTOENCODER)
    digest = sha256(run / WEIGHTS)
    transformer = _filled(lambda: Transformer(config.model), run / WEIGHTS).to(device).eval()
    autoencoder = load_autoencoder(run / AUTOENCODER, device)
    dtype = resolve_precision(precision, torch.device(device))
    for network in (transformer, autoencoder):
        prepare_for_inference(network, dtype, torch.device(device))
    if sha256(run / WEIGHTS) != digest:
        raise UserError(f"{run} was written to while it was read: run the same command again")
    return WorldModel(config, transformer, autoencoder, digest, dtype, read_metadata(run))


def export(run: Path, out: Path) -> None:
    """Write what it takes to use a world model to `out`: nothing of its training, weights of 16 bits (two kinds: of 8).

    Raises UserError when `out` is there already.
    """
    if out.exists():
        raise UserError(f"{out} is there already: export to a new folder")
    run = local_run(run)
    model = load(run, precision="float32")
    with new_folder(out) as folder:
        for part, network in ((Path(), model.transformer), (Path(AUTOENCODER), model.autoencoder)):
            trained = {name for name, _ in network.named_parameters()}  # what is measured keeps its precision
            weights = {name: _small(name, x) if name in trained else x for name, x in network.state_dict().items()}
            write_weights(folder / part / WEIGHTS, weights)
            write_config(read_config(run / part / CONFIG), folder / part / CONFIG)
        write_metadata(model.metadata, folder)


def _small(name: str, weight: Tensor) -> Tensor:
    """A weight in the precision it is shipped in: 16 bits, and 8 for what hardly feels it (docs/experiments.md)."""
    # How old frames, already coarse, read even older ones.
    reading = name.endswith(("attention.levels.1.query.weight", "attention.levels.1.output.weight"))
    return weight.to(torch.float8_e4m3fn if reading else torch.bfloat16)


def load_autoencoder(run: Path | str, device: str | torch.device = "cpu") -> Autoencoder:
    """The autoencoder of a run, its averaged weights. Raises UserError when `run` is none."""
    run = Path(run)
    config = _config(run, TokenizerConfig)
    return _filled(lambda: Autoencoder(config.model), run / WEIGHTS).to(device).eval()


def _filled(network: Callable[[], N], path: Path) -> N:
    """A network with the weights in a file. Raises UserError where they do not fit, before memory is taken for it."""
    weights = read_weights(path)
    try:
        with torch.device("meta"):
            check_fit(network(), weights, path)
    except (RuntimeError, TypeError, ArithmeticError, MemoryError) as error:
        raise UserError(f"{path} does not fit its configuration ({reason_of(error)})") from error
    filled = network()
    filled.load_state_dict(weights)
    return filled


def world_config(run: Path) -> WorldModelConfig:
    """The settings of a world model's run. Raises UserError when it is none."""
    return _config(run, WorldModelConfig)


def _config(run: Path, kind: type[C]) -> C:
    config = read_config(run / CONFIG)
    if not isinstance(config, kind):
        inside = run / AUTOENCODER
        way_out = f"name that in it, {inside}" if kind is TokenizerConfig and inside.exists() else "name another run"
        raise UserError(f"{run} is {WHAT[type(config)]}, not {WHAT[kind]}: {way_out}")
    return config
