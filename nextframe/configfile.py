"""`config.yaml`: a configuration beside the weights it belongs to, written whole and read back strictly."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from reprlib import repr as short  # of a few names for one list, a few lines can make gigabytes
from typing import Any, TypeVar

import yaml

from nextframe.architecture import AutoencoderConfig, TransformerConfig
from nextframe.config import TokenizerConfig, WorldModelConfig
from nextframe.errors import UserError, did_you_mean, reason_of
from nextframe.files import write_atomically

KINDS: dict[str, type] = {"autoencoder": TokenizerConfig, "world-model": WorldModelConfig}
MOST_BRACKETS = 1000
"""The parser takes the square of their number in time."""
NOT_YAML = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What the parser lets through: a date that there is not, an empty number, thousands of brackets."""
RunConfig = TokenizerConfig | WorldModelConfig
T = TypeVar("T")


def write_config(config: RunConfig, path: Path) -> None:
    kind = next(name for name, cls in KINDS.items() if isinstance(config, cls))
    text = yaml.safe_dump({"kind": kind, **_plain(dataclasses.asdict(config))}, sort_keys=False)
    write_atomically(path, text.encode())


def dotted(settings: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as `train.optimizer.decay` and its value."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{within}{name}.")
        else:
            yield f"{within}{name}", value


def read_config(path: Path) -> RunConfig:
    """Raises UserError, naming the file and the setting, for anything that does not fit."""
    try:
        text = path.read_text()
        if sum(map(text.count, "[{")) > MOST_BRACKETS:
            raise ValueError("it is nested too deeply")
        values = yaml.safe_load(text)
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a run: it has no {path.name}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name the folder of a run") from None
    except (yaml.YAMLError, *NOT_YAML) as error:
        raise UserError(f"{path} is not valid YAML: {reason_of(error)}") from None
    kinds = [kind for kind in KINDS if isinstance(values, dict) and values.get("kind") == kind]
    if not kinds:
        raise UserError(f"{path}: kind must be one of {', '.join(KINDS)}")
    del values["kind"]
    try:
        return build(KINDS[kinds[0]], values, str(path))
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{path}: {error}") from None


def build(cls: type[T], values: Any, where: str) -> T:
    """A dataclass from plain values; every name and type is checked."""
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected settings, found {short(values)}")
    hints = typing.get_type_hints(cls)
    unknown = [name for name in values if name not in hints]
    if unknown:
        raise UserError(f"{where}: unknown setting {short(unknown[0])}{did_you_mean(str(unknown[0]), hints)}")
    return cls(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    if origin is tuple and isinstance(value, list):
        hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(hints) == len(value):
            return tuple(_value(one, item, where) for one, item in zip(hints, value, strict=True))
    elif origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        return _value(next(argument for argument in arguments if argument is not type(None)), value, where)
    elif origin is typing.Literal and (word := _word(value)) in arguments:
        return word
    elif hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads `1e-4` as a string
        except (ValueError, OverflowError):
            pass
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}: {short(value)} does not fit {getattr(hint, '__name__', hint)}")


def _word(value: Any) -> Any:
    """What was written: YAML reads a bare `on` or `off` as true or false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def require_fit(world_model: WorldModelConfig, autoencoder: RunConfig, where: Path) -> None:
    """Raises UserError when `autoencoder`, found in `where`, does not make the latents of a world model."""
    if not isinstance(autoencoder, TokenizerConfig):
        raise UserError(f"{where} is a world model: name an autoencoder, a file DCAE_....pth or a run of one")
    made, wanted = autoencoder.model, world_model.model
    if made.latent_shape != wanted.latent_shape:
        raise UserError(
            f"the autoencoder {where} makes latents of {_latents(made)}, the world model takes {_latents(wanted)}: "
            "choose the one it was trained with"
        )


def _latents(config: AutoencoderConfig | TransformerConfig) -> str:
    return " x ".join(map(str, config.latent_shape))
