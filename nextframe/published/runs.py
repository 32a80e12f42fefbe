"""Published files (guyuchao/FAR_Models): read without running what is in them, made into runs, and back.

RUN/published.safetensors     published weights that ours have no place for, as they were: a round trip is exact
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nextframe.architecture import AutoencoderConfig, TransformerConfig
from nextframe.autoencoder import Autoencoder
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, check_fit, read_weights, write_weights
from nextframe.config import TokenizerConfig, WorldModelConfig
from nextframe.configfile import RunConfig, read_config, require_fit, write_config
from nextframe.data.tensors import tensors_of
from nextframe.errors import UserError, unknown
from nextframe.files import sha256
from nextframe.presets import PRESETS
from nextframe.published.names import AUTOENCODER_PREFIX, PUBLISHED_SCALE, from_published, to_published, without_effect
from nextframe.published.recognise import LATENT_SIZE, autoencoder_to_published, recognise
from nextframe.published.releases import name_and_hash, release_of
from nextframe.transformer import Transformer

PUBLISHED = "published.safetensors"
AVERAGED = "ema.pth"
"""In a checkpoint folder of the authors' trainer: the averaged weights, with the statistics of batch norms."""


@dataclass(frozen=True)
class PublishedModel:
    """A published file, understood."""

    config: RunConfig
    preset: str | None
    """Whose training and sampling settings the configuration has; None: the defaults."""
    alike: tuple[str, ...]
    """Other presets that may be meant: of this shape, where neither its name nor anybody said which."""
    weights: dict[str, Tensor]
    """Ours, each in the precision it has in the file."""
    rest: dict[str, Tensor]
    """The published weights that ours have no place for."""
    verified: bool
    """The content has the hash that the name of the file ends in; False: the name ends in none."""


def read_published(path: Path, latent_size: int = LATENT_SIZE, preset: str | None = None) -> PublishedModel:
    """Read a published transformer or DC-AE (.pth, .safetensors, or a checkpoint folder of the authors' trainer), and
    find out which one it is.

    `latent_size`: rows and columns of its latents. `preset`: of a transformer, which settings it is to have; None: as
    its name or its shape says. Raises UserError, naming the weights, for one that does not fit.
    """
    file = _averaged(path) if path.is_dir() else path
    weights = _read_tensors(file)
    verified = _verify(file)
    try:
        model = recognise(weights, latent_size)
    except ValueError as error:
        raise UserError(f"{path} {error}; convert takes the state dict of a published model, unchanged") from None
    if isinstance(model, AutoencoderConfig):
        ours = {AUTOENCODER_PREFIX + name: weight for name, weight in weights.items()}
        ours["scale"] = torch.tensor(PUBLISHED_SCALE)
        settings, name = _tokenizer_config(model)
        return PublishedModel(settings, name, (), ours, {}, verified)
    with torch.device("meta"):
        names = list(Transformer(model).state_dict())
    rest = {name: weights[name] for name in without_effect(model)}
    _refuse_mixed_precision(path, weights)
    config, name, alike = _world_model_config(model, path, preset)
    return PublishedModel(config, name, alike, from_published(weights, names), rest, verified)


def write_run(model: PublishedModel, folder: Path) -> None:
    """Write the files of a run. Make `folder` with `files.new_folder`."""
    write_config(model.config, folder / CONFIG)
    write_weights(folder / WEIGHTS, model.weights)
    if model.rest:
        write_weights(folder / PUBLISHED, model.rest)


def add_autoencoder(run: Path, source: Path) -> None:
    """Give the world model in the folder `run` its autoencoder: a published DC-AE, or a run of an autoencoder.

    Raises UserError when its latents are not those of the world model, or have never been scaled.
    """
    config = read_config(run / CONFIG)
    assert isinstance(config, WorldModelConfig)
    if source.is_file():
        model = read_published(source, config.model.latent_size)
        require_fit(config, model.config, source)
        write_run(model, run / AUTOENCODER)
        return
    settings = read_config(source / CONFIG)
    require_fit(config, settings, source)
    weights = read_weights(source / WEIGHTS)
    if weights["scale"] == 1:
        raise UserError(
            f"the latents of {source} have never been scaled: name the autoencoder beside the latents that the model "
            "was trained on, LATENTS/autoencoder"
        )
    write_config(settings, run / AUTOENCODER / CONFIG)
    write_weights(run / AUTOENCODER / WEIGHTS, weights)


def published_weights(run: Path) -> dict[str, Tensor]:
    """The published state dict of a run, of a world model or an autoencoder.

    Raises UserError for a model that the published classes cannot be.
    """
    config, weights = read_config(run / CONFIG), read_weights(run / WEIGHTS)
    with torch.device("meta"):
        network: nn.Module = (
            Autoencoder(config.model) if isinstance(config, TokenizerConfig) else Transformer(config.model)
        )
    check_fit(network, weights, run / WEIGHTS)
    if isinstance(config, TokenizerConfig):
        return autoencoder_to_published(weights)
    foreign = _without_counterpart(config.model)
    if foreign:
        raise UserError(f"{run} has no published counterpart: the published classes know no {foreign}")
    rest = read_weights(run / PUBLISHED) if (run / PUBLISHED).exists() else {}
    return to_published(weights, config.model) | rest


def _without_counterpart(config: TransformerConfig) -> str:
    """What a published transformer cannot be; empty for one that it can."""
    # The published classes know other patches, but no published file has any, so that none could be recognised.
    foreign = {
        "actions that are vectors": config.condition == "vector",
        "compass": bool(config.turns),
        "full attention (Video DiT)": config.attention == "full",
        f"patches of {config.patch} x {config.patch} latents": config.patch != 1,
    }
    return " and no ".join(name for name, has in foreign.items() if has)


def _averaged(path: Path) -> Path:
    """The averaged weights in a checkpoint folder of the authors' trainer."""
    if not (path / AVERAGED).is_file():
        raise UserError(
            f"{path} is a folder without {AVERAGED}: name a published file, or a checkpoint of the authors' trainer; "
            "to write a run as a published file, add --to-official"
        )
    return path / AVERAGED


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict in a file. No code in it is run: torch refuses a file that asks for any."""
    if not path.is_file():
        raise UserError(f"{path} is no file: name a published checkpoint (.pth or .safetensors)")
    if path.suffix == ".safetensors":
        return read_weights(path)
    again = "download it again"
    try:
        content = tensors_of(path, mmap=True)
    except ValueError as error:
        code = re.search(r"GLOBAL (\S+)", str(error.__cause__))  # which ours is cut short of
        if code:
            raise UserError(
                f"{path} wants to run {code[1]} while it is read, which nextframe never does: "
                "have it saved again as a state dict of tensors alone"
            ) from None
        ours = isinstance(error.__cause__, ValueError | None)  # torch's words are of Python, and long
        reason = f" ({error})" if ours else ""
        raise UserError(f"{path} is damaged, cut off or no file of torch.save{reason}: {again}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict: save model.state_dict()")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        nested = [str(name) for name, value in content.items() if isinstance(value, dict)]
        part = repr((nested or ["model"])[0])
        raise UserError(
            f"{path} holds more than a state dict ({', '.join(others[:3])}): load it and save the weights in it alone, "
            f"as in torch.save(checkpoint[{part}], FILE)"
        )
    return _without_wrappers({str(name): value.detach() for name, value in content.items()})


def _without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as the network has them, without those of DDP and torch.compile round it."""
    for wrapper in ("module.", "_orig_mod.", "module."):  # compiled before or after it was distributed
        if weights and all(name.startswith(wrapper) for name in weights):
            weights = {name.removeprefix(wrapper): value for name, value in weights.items()}
    return weights


def _verify(path: Path) -> bool:
    """Whether the name ends in a hash of the content. Raises UserError when it ends in another one."""
    name, expected = name_and_hash(path)
    if expected is None:
        return False
    found = sha256(path)[: len(expected)]
    if found != expected:
        raise UserError(
            f"{path} should have a sha256 that begins with {expected}, but it is {found}: the download is damaged or "
            f"the file was changed; download it again, or rename it to {name}{path.suffix} to convert it as it is"
        )
    return True


def _refuse_mixed_precision(path: Path, weights: dict[str, Tensor]) -> None:
    """Keys and values are one matrix in ours, so they must be of one precision."""
    for name, key in weights.items():
        value = re.sub(r"(to_|add_)k", r"\1v", name)
        if ".attn." in name and weights[value].dtype != key.dtype:
            raise UserError(f"{path} has {name} and {value} in two precisions: save it in one")


def _world_model_config(
    model: TransformerConfig, path: Path, chosen: str | None
) -> tuple[WorldModelConfig, str, tuple[str, ...]]:
    """The preset of a transformer, with the model that was found in its place; its name; and those as near.

    The `chosen` one; else by the name of the file if that is a published one, else the nearest by shape. Raises
    UserError where there is no such preset.
    """
    candidates = {
        name: preset
        for name, preset in PRESETS.items()
        if isinstance(preset, WorldModelConfig) and not _without_counterpart(preset.model)
    }
    release, alike = release_of(path), ()
    if chosen is not None:
        if chosen not in candidates:
            raise UserError(unknown("preset of a published model", chosen, candidates))
        if (candidates[chosen].model.coarse_patch is None) != (model.coarse_patch is None):
            raise UserError(f"--preset {chosen}: one of the two is a long model, the other is none; choose another")
        name = chosen
    elif release is not None and _shape(candidates[release.preset].model) == _shape(model):
        name = release.preset
    else:
        name = min(candidates, key=lambda name: _distance(candidates[name].model, model))
        alike = tuple(
            other
            for other, preset in candidates.items()
            if preset != candidates[name] and _shape(preset.model) == _shape(model)
        )
    preset = candidates[name]
    if model.condition == "none":
        preset = replace(preset, sample=replace(preset.sample, guidance=1.0))
    return replace(preset, model=replace(model, window=preset.model.window)), name, alike


def _tokenizer_config(model: AutoencoderConfig) -> tuple[TokenizerConfig, str | None]:
    for name, preset in PRESETS.items():
        if isinstance(preset, TokenizerConfig) and preset.model == model:
            return preset, name
    return TokenizerConfig(model=model), None


def _shape(model: TransformerConfig) -> tuple[object, ...]:
    """What can be seen in the weights."""
    seen = (model.latent_channels, model.layers, model.heads, model.head_dim)
    return (*seen, model.coarse_patch, model.condition, model.classes)


def _distance(preset: TransformerConfig, model: TransformerConfig) -> tuple[float, ...]:
    """How unlike a preset is: of another kind, told other things, of another size."""
    return (
        (preset.coarse_patch is None) != (model.coarse_patch is None),
        preset.condition != model.condition,
        abs(preset.layers - model.layers) + abs(preset.heads - model.heads),
    )
