"""Published checkpoints into runs, and runs into published checkpoints."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, read_weights
from nextframe.config import TokenizerConfig, WorldModelConfig
from nextframe.configfile import read_config, require_fit
from nextframe.errors import UserError
from nextframe.files import new_file, new_folder, sha256
from nextframe.hub import local_run
from nextframe.published.names import PUBLISHED_SCALE
from nextframe.published.recognise import LATENT_SIZE, model_in_words
from nextframe.published.releases import TRANSFORMERS, name_and_hash, release_of
from nextframe.published.runs import (
    PUBLISHED,
    PublishedModel,
    add_autoencoder,
    published_weights,
    read_published,
    write_run,
)


def convert_published(
    file: Path,
    out: Path,
    latent_size: int | None,
    autoencoder: Path | None,
    preset: str | None,
    scale: float | None,
) -> list[str]:
    """Make the run `out` of a published transformer or DC-AE, and say what it is; returns what to type next.

    `latent_size`: rows and columns of its latents, which no weight tells; None: as published. `autoencoder`:
    for a transformer, a published DC-AE or a run of one. `preset`: of a transformer, whose settings it gets; None: as
    its name or its shape says. `scale`: of an autoencoder, what its latents are multiplied by; None: as published.
    Raises UserError, before anything is written, for a file that is damaged or fits no model, and for an `out` that is
    there already.
    """
    if out.exists():
        raise UserError(f"{out} is there already: choose a new folder (an autoencoder goes to RUN/{AUTOENCODER})")
    if latent_size is not None and latent_size < 1:
        raise UserError(f"--latent-size is {latent_size}: latents have at least 1 row and column")
    world_model = _world_model_around(out)
    latent_size = latent_size or (world_model.model.latent_size if world_model else LATENT_SIZE)
    model = read_published(file, latent_size, preset)
    if isinstance(model.config, TokenizerConfig):
        if autoencoder is not None or preset is not None:
            raise UserError(f"{file} is an autoencoder itself: leave out --autoencoder and --preset")
        if scale is not None:
            if not 0 < scale < math.inf:
                raise UserError(f"--scale is {scale}: give a positive number")
            model.weights["scale"] = torch.tensor(scale)
    elif scale is not None:
        raise UserError(f"--scale is of an autoencoder: convert that by itself, with --out {out / AUTOENCODER}")
    if autoencoder is not None:
        _refuse_another_ones(file, autoencoder)
    if world_model is not None:
        require_fit(world_model, model.config, file)
    with new_folder(out) as folder:
        write_run(model, folder)
        if autoencoder is not None:
            add_autoencoder(folder, autoencoder if autoencoder.is_file() else local_run(autoencoder))
    print(summary(model, file, out))
    return _next_command(model.config, file, out)


def convert_to_official(run: Path, out: Path) -> None:
    """Write the world model or autoencoder of a run as the published classes load it: .pth, or .safetensors.

    Raises UserError for a model that has no published counterpart, and for an `out` that is there.
    """
    run = local_run(run)
    if out.exists():
        raise UserError(f"{out} is there already: choose a new file")
    if out.suffix not in (".pth", ".safetensors"):
        raise UserError(f"--out {out} must end in .pth or .safetensors")
    name, stated = name_and_hash(out)
    if stated is not None:
        raise UserError(f"--out {out} ends in a hash, which the new file cannot have: call it {name}{out.suffix}")
    weights = {name: weight.clone() for name, weight in published_weights(run).items()}
    with new_file(out) as temporary:
        if out.suffix == ".pth":
            torch.save(weights, temporary)
        else:
            save_file(weights, temporary)
    config = read_config(run / CONFIG)
    print(f"{run}: {model_in_words(config.model)}")
    print(f"  written        {out}, {len(weights)} tensors, sha256 {sha256(out)[:8]}")
    print("\n".join(f"  not in it      {line}" for line in _left_out(config, run)))


def summary(model: PublishedModel, file: Path, out: Path) -> str:
    """What was found in a published file, and what was made of it."""
    config, count = model.config, sum(weight.numel() for weight in model.weights.values())
    settings = f"those of the preset {model.preset}" if model.preset else "defaults"
    if model.alike:
        settings += f" (as large, with other settings: {', '.join(model.alike)}; choose with --preset)"
    parts = [CONFIG, WEIGHTS, *([PUBLISHED] if model.rest else [])]
    lines = [
        f"{file.name}: {model_in_words(config.model)}; {count / 1e6:.1f} M parameters",
        f"  content        {'has the hash in its name' if model.verified else 'not checked: no hash in the name'}",
        f"  settings       {settings}",
    ]
    if isinstance(config, TokenizerConfig):
        side, activation = config.model.frame_size, config.model.decoder_activation
        assumed = f"frames of {side} pixels, {activation} in its decoder"
        if config.model.decoder_norm == "rms_norm":
            assumed += ", no batch norms, because it has no statistics of any"
        scale = float(model.weights["scale"])
        as_published = math.isclose(scale, PUBLISHED_SCALE, rel_tol=1e-6)  # it is a float32
        other = ", as of the published ones; another with --scale" if as_published else ""
        lines.append(f"  scale          latents times {scale:g}{other}")
    else:
        side, axes = config.model.latent_size, " + ".join(map(str, config.model.rope_axes))
        patches = f"{config.model.latent_channels} channels in patches of one latent"
        assumed = f"latents of {side} x {side}, {patches}, a window of {config.model.window} frames, rotary axes {axes}"
        if config.model.condition == "action":
            assumed += ", told the action taken at each frame (action_of: departure)"
        if (out / AUTOENCODER).exists():
            parts.append(AUTOENCODER)
            scale = float(read_weights(out / AUTOENCODER / WEIGHTS)["scale"])
            lines.append(f"  autoencoder    its latents times {scale:g}")
        else:
            lines.append("  autoencoder    none yet")
    lines += [
        f"  assumed        {assumed} (no weight tells; change {out / CONFIG} if it is otherwise)",
        f"  written        {out}: {', '.join(parts)}",
    ]
    return "\n".join(lines)


def _next_command(config: TokenizerConfig | WorldModelConfig, file: Path, out: Path) -> list[str]:
    if isinstance(config, TokenizerConfig):
        return ["encode", "--autoencoder", str(out), "--data", "DATA", "--out", "LATENTS"]
    if (out / AUTOENCODER).exists():
        return ["sample", "--model", str(out), "--data", "DATA", "--out", "OUT"]
    release = release_of(file)
    return ["convert", release.autoencoder if release else "DCAE_FILE.pth", "--out", str(out / AUTOENCODER)]


def _refuse_another_ones(file: Path, autoencoder: Path) -> None:
    """Two published files that do not belong together: all their autoencoders make latents of the same shape."""
    release, name = release_of(file), name_and_hash(autoencoder)[0]
    known = {name_and_hash(other.autoencoder)[0] for other in TRANSFORMERS.values()}
    if release is not None and name in known and name != name_and_hash(release.autoencoder)[0]:
        raise UserError(f"{file.name} was trained with {release.autoencoder}, not with {autoencoder.name}: name that")


def _world_model_around(out: Path) -> WorldModelConfig | None:
    """The world model that `out` is to be the autoencoder of, if it is RUN/autoencoder."""
    if out.name != AUTOENCODER or not (out.parent / CONFIG).exists():
        return None
    config = read_config(out.parent / CONFIG)
    return config if isinstance(config, WorldModelConfig) else None


def _left_out(config: TokenizerConfig | WorldModelConfig, run: Path) -> list[str]:
    """What the published layout has no place for, and the user of the file must know."""
    if isinstance(config, TokenizerConfig):
        scale = float(read_weights(run / WEIGHTS)["scale"])
        if scale == 1:
            return ["scaling_factor: not measured yet, nextframe encode does that"]
        return [f"scaling_factor {scale:.6g}: belongs in the configuration of the published class, no file holds it"]
    model, lines = config.model, []
    lines.append(f"short_term_ctx_winsize={model.window}, axes_dims_rope={model.rope_axes}: arguments of the class")
    if model.temporal_decay:
        lines.append(f"slope_scale={model.temporal_decay}: an argument of the class")
    if model.condition == "action" and model.action_of == "arrival":
        lines.append(
            "this model gives a frame the action that led to it, the published code the one taken in it: shift"
        )
    return lines
