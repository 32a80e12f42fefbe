"""Commands that make models, and copies of them."""

from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from nextframe.config import TokenizerConfig
from nextframe.configfile import RunConfig
from nextframe.errors import UserError
from nextframe.options import choose, say_next
from nextframe.presets import PRESETS, preset_summary

Flag = tyro.conf.FlagCreatePairsOff[bool]
ESTIMATE = "Only say how much memory and time it would take here, and which batch would fit."


def train(arguments: list[str]) -> None:
    """Train a preset: nextframe train autoencoder-maze --data DATA --out RUN"""
    presets = {name: preset_summary(preset) for name, preset in PRESETS.items()}
    choose("preset", arguments, presets, "nextframe train", _train_preset)


def _train_preset(name: str, arguments: list[str]) -> None:
    preset = PRESETS[name]
    fields = [
        ("data", Annotated[Path, tyro.conf.arg(help="Episodes (for an autoencoder) or latents (for a world model).")]),
        ("out", Annotated[Path, tyro.conf.arg(help="The run: made, or gone on with.")]),
        ("initial", Annotated[Path | None, tyro.conf.arg(help="Run, or weight file, to start a new run from.")], None),
        ("estimate", Annotated[Flag, tyro.conf.arg(help=ESTIMATE)], False),
        (
            "insist",
            Annotated[Flag, tyro.conf.arg(help="Train even if the memory here clearly does not suffice.")],
            False,
        ),
        ("config", Annotated[type(preset), tyro.conf.arg(name="")], preset),
    ]
    described = f"Train the preset {name!r}. Every setting can be overridden. Run again to go on where it stopped."
    try:
        chosen: Any = tyro.cli(
            make_dataclass("Train", fields), args=arguments, prog=f"nextframe train {name}", description=described
        )
    except ValueError as error:  # settings that do not go together; tyro itself only catches those of one part
        raise UserError(f"train {name}: {error}") from None

    from nextframe.ranks import first_launched
    from nextframe.recipes import estimate_preset, train_preset

    what = (chosen.config, chosen.data, chosen.out, chosen.initial)
    if chosen.estimate:
        lines = estimate_preset(*what)
        if first_launched():
            print("\n".join(lines))
    else:
        train_preset(*what, chosen.insist)
        if first_launched():
            _trained(chosen.config, chosen.data, chosen.out)


def _trained(config: RunConfig, data: Path, run: Path) -> None:
    say_next("look at how it went", "watch", run)
    if isinstance(config, TokenizerConfig):
        say_next("then", "encode", "--autoencoder", run, "--data", data, "--out", "LATENTS")
    elif config.model.attention == "full":
        say_next("then", "sample", "--model", run, "--data", "DATA", "--context", "0", "--out", "OUT")
    else:
        say_next("walk in it", "play", "--model", run, "--data", "DATA")


def export(model: Path, out: Path) -> None:
    """A small copy of a world model to share or ship: configuration and 16-bit weights, 8-bit in part.

    Args:
        model: Run of a world model.
        out: Folder to make; it works wherever a run does.
    """
    from nextframe.runs import export as run

    run(model, out)
    bytes_of_it = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {bytes_of_it / 1e6:,.1f} MB")
    say_next("walk in it", "play", "--model", out, "--data", "DATA")


def convert(
    source: tyro.conf.Positional[Path],
    out: Path,
    to_official: tyro.conf.FlagCreatePairsOff[bool] = False,
    autoencoder: Path | None = None,
    latent_size: int | None = None,
    preset: str | None = None,
    scale: float | None = None,
) -> None:
    """Make a run of a published checkpoint (guyuchao/FAR_Models), or with --to-official one of a run.

    nextframe convert FAR_B_Long_DMLab_Action64-c09441dc.pth --autoencoder DCAE_DMLab_Res64-17035ae5.pth --out RUN

    nextframe convert RUN --to-official --out FILE.pth

    Which model it is (long or short, its size, what it is conditioned on) is found out from the file itself.

    Args:
        source: State dict of a published transformer or DC-AE, .pth or .safetensors, or a checkpoint folder of the
            authors' trainer, of which the average is taken; with --to-official, a run.
        out: Folder to make: RUN for a transformer, RUN/autoencoder for its autoencoder. With --to-official a file.
        to_official: Write the published layout. A published file converted forth and back is the same to the last bit.
        autoencoder: DC-AE file, or run of an autoencoder, to go into RUN with a transformer; it can be added later.
        latent_size: Rows and columns of the latents, which cannot be seen in a file; 8, as published, if not given.
        preset: Of a transformer: the preset whose settings (clips, training, sampling) it gets. If not given, that of
            the published file whose name it has, or else the nearest.
        scale: Of an autoencoder: what its latents are multiplied by (scaling_factor); 0.2889, as published, if not
            given.
    """
    from nextframe.convert import convert_published, convert_to_official

    if not to_official:
        say_next("next", *convert_published(source, out, latent_size, autoencoder, preset, scale))
    elif autoencoder is None and latent_size is None and preset is None and scale is None:
        convert_to_official(source, out)
    else:
        raise UserError("--to-official takes RUN and --out FILE alone: leave out the other options")
