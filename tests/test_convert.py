"""Published checkpoints become runs and come back the same; what is no such checkpoint is refused by name."""

import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import AUTOENCODER as TINY_AUTOENCODER
from conftest import LONG, SHORT, random_transformer
from diffusers import AutoencoderDC
from safetensors import safe_open
from safetensors.torch import save_file
from test_official import OWN, Recording, check_forward
from torch import Tensor

import nextframe
from nextframe.architecture import AutoencoderConfig, TransformerConfig
from nextframe.autoencoder import Autoencoder, diffusers_settings
from nextframe.checkpoint import AUTOENCODER, CONFIG, WEIGHTS, load_weights, read_weights, write_weights
from nextframe.cli import run_command
from nextframe.config import ClipConfig, WorldModelConfig
from nextframe.configfile import read_config, write_config
from nextframe.errors import UserError
from nextframe.files import sha256
from nextframe.presets import AUTOENCODERS, PRESETS
from nextframe.published.names import AUTOENCODER_PREFIX, to_published
from nextframe.published.recognise import recognise
from nextframe.published.releases import TRANSFORMERS, Release, name_and_hash
from nextframe.published.runs import _world_model_config
from nextframe.transformer import Transformer

RECORDED = ("far_action", "far_flexrope_slope", "far_label", "far_long_action", "far_uncond")
SIZES = ("far-b", "far-m", "far-l", "ucf101-256-xl-labels", "far-b-long", "far-m-long")
# An attention stage, and four channels of 4 x 4 latents, as the recorded transformers have.
DCAE = replace(
    TINY_AUTOENCODER,
    latent_channels=4,
    encoder_channels=(8, 16, 32),
    decoder_channels=(8, 16, 32),
    encoder_layers=(0, 2, 1),
    decoder_layers=(0, 1, 2),
    attention_stages=1,
    decoder_activation="silu",
)


def recorded(name: str) -> dict[str, Tensor]:
    """The state dict of a small published model."""
    with safe_open(OWN / f"{name}.safetensors", "pt") as file:
        names = [key for key in file.keys() if key.startswith("weights.")]  # noqa: SIM118  (not a mapping)
        return {key.removeprefix("weights."): file.get_tensor(key) for key in names}


def saved(content: Any, name: str) -> Path:
    """A file of torch.save, named like a published one: with the hash of its content."""
    path = Path("content.pth")
    torch.save(content, path)
    return path.rename(f"{name}-{sha256(path)[:8]}.pth")


def published_autoencoder(config: AutoencoderConfig) -> AutoencoderDC:
    """diffusers' own, everything in it random."""
    network = AutoencoderDC(**diffusers_settings(config)).eval()
    for weight in network.state_dict().values():
        if weight.is_floating_point():
            weight.add_(0.1 * torch.rand_like(weight))
        else:
            weight.fill_(7)
    return network


def convert(*words: object) -> None:
    run_command(["convert", *map(str, words)])


def refused(*words: object) -> str:
    with pytest.raises(UserError) as error:
        convert(*words)
    assert "\n" not in str(error.value)
    assert not list(Path().rglob(".nextframe-partial-*"))
    return str(error.value)


def check_same(file: Path, weights: dict[str, Tensor]) -> None:
    """To the last bit, and nothing more or less."""
    back = torch.load(file, weights_only=True)
    assert set(back) == set(weights)
    for name, weight in weights.items():
        assert back[name].dtype == weight.dtype, name
        torch.testing.assert_close(back[name], weight, atol=0, rtol=0)


@pytest.mark.parametrize("name", RECORDED)
def test_a_published_transformer_gives_its_own_numbers_and_comes_back_exactly(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recording, weights = Recording(OWN / f"{name}.safetensors"), recorded(name)
    convert(saved(weights, "FAR"), "--out", "run", "--latent-size", 4)
    assert ("action_of: departure" in capsys.readouterr().out) == (recording.config.condition == "action")
    config = read_config(Path("run") / CONFIG)
    assert isinstance(config, WorldModelConfig)
    # No weight tells these two; no published checkpoint has other ones than the default.
    unseen = {"window": recording.config.window, "temporal_decay": recording.config.temporal_decay}
    found = replace(config.model, **unseen)
    assert found == recording.config
    recording.model = load_weights(Transformer(found), Path("run") / WEIGHTS).eval()
    check_forward(recording)
    convert("run", "--to-official", "--out", "back.pth")
    check_same(Path("back.pth"), weights)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_names_that_a_wrapper_of_the_network_left(wrapper: str) -> None:
    """DDP and torch.compile put their own before all names."""
    weights = recorded("far_label")
    convert(saved({wrapper + name: weight for name, weight in weights.items()}, "FAR"), "--out", "run")
    convert("run", "--to-official", "--out", "back.pth")
    check_same(Path("back.pth"), weights)


def test_the_format_that_torch_wrote_before_version_1_6() -> None:
    weights = recorded("far_label")
    torch.save(weights, "old.pth", _use_new_zipfile_serialization=False)
    convert("old.pth", "--out", "run")
    convert("run", "--to-official", "--out", "back.pth")
    check_same(Path("back.pth"), weights)


def test_precisions_are_kept() -> None:
    weights = {name: weight.bfloat16() if "mlp" in name else weight for name, weight in recorded("far_label").items()}
    convert(saved(weights, "FAR"), "--out", "run")
    convert("run", "--to-official", "--out", "back.safetensors")
    convert("back.safetensors", "--out", "again")
    convert("again", "--to-official", "--out", "back.pth")
    check_same(Path("back.pth"), weights)
    weights["transformer_blocks.1.attn.to_k.bias"] = weights["transformer_blocks.1.attn.to_k.bias"].half()
    assert "in two precisions" in refused(saved(weights, "FAR"), "--out", "mixed")


@pytest.mark.parametrize("name", SIZES)
def test_every_size_of_the_paper_is_recognised(name: str) -> None:
    preset = PRESETS[name]
    assert isinstance(preset, WorldModelConfig)
    wanted = replace(preset.model, action_of="departure")
    with torch.device("meta"):
        weights = to_published(Transformer(wanted).state_dict(), wanted)
    assert recognise(weights) == wanted


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_every_published_autoencoder_is_recognised(name: str) -> None:
    with torch.device("meta"):
        network = AutoencoderDC(**diffusers_settings(AUTOENCODERS[name].model))
    assert recognise(network.state_dict()) == AUTOENCODERS[name].model


@pytest.mark.parametrize(
    "config",
    [
        replace(DCAE, decoder_norm="batch_norm", decoder_activation="relu"),
        DCAE,
        replace(DCAE, encoder_layers=(1, 2, 1), decoder_layers=(2, 1, 2), attention_stages=0),
    ],
    ids=["batch norm", "rms norm", "first stage"],
)
@torch.no_grad()
def test_an_autoencoder_gives_its_own_numbers_and_comes_back_exactly(config: AutoencoderConfig) -> None:
    network = published_autoencoder(config)
    convert(saved(network.state_dict(), "DCAE"), "--out", "run", "--latent-size", 4)
    found = read_config(Path("run") / CONFIG)
    assert found.model == config
    ours = load_weights(Autoencoder(config), Path("run") / WEIGHTS).eval()
    pixels = torch.rand(2, 3, 16, 16)
    latents = network.encode(pixels, return_dict=False)[0]
    torch.testing.assert_close(ours.encode(pixels), 0.2889 * latents)
    torch.testing.assert_close(ours.decode(0.2889 * latents), network.decode(latents, return_dict=False)[0])
    convert("run", "--to-official", "--out", "back.pth")
    check_same(Path("back.pth"), dict(network.state_dict()))


def test_the_average_in_a_folder_of_the_authors_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(DCAE, decoder_norm="batch_norm", decoder_activation="relu")
    averaged = published_autoencoder(config).state_dict()
    folder = Path("checkpoint-1000")
    folder.mkdir()
    torch.save(averaged, folder / "ema.pth")
    save_file({name: weight + 1 for name, weight in averaged.items()}, folder / "model.safetensors")
    convert(folder, "--out", "run", "--latent-size", 4, "--scale", 0.5)
    assert "latents times 0.5\n" in capsys.readouterr().out
    weights = read_weights(Path("run") / WEIGHTS)
    assert weights.pop("scale") == 0.5 and read_config(Path("run") / CONFIG).model == config
    for name, weight in weights.items():
        assert torch.equal(weight, averaged[name.removeprefix(AUTOENCODER_PREFIX)]), name
    (folder / "ema.pth").unlink()
    assert "is a folder without ema.pth" in refused(folder, "--out", "x")


def test_settings_are_those_of_the_published_file_by_its_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(TRANSFORMERS) == 10
    for release in TRANSFORMERS.values():
        assert release.preset in PRESETS and name_and_hash(release.autoencoder)[1]
    weights = recorded("far_uncond")
    file = saved(weights, "FAR_B_BAIR_Uncond64")
    convert(file, "--out", "not_its_size")
    assert "preset far-b\n" in capsys.readouterr().out
    small = recognise(weights)
    assert isinstance(small, TransformerConfig)
    for name, window in (("small-16", 16), ("small-30", 30)):
        preset = WorldModelConfig(model=replace(small, window=window), clip=ClipConfig(frames=window))
        monkeypatch.setitem(PRESETS, name, preset)
    monkeypatch.setitem(TRANSFORMERS, "FAR_B_BAIR_Uncond64", Release("small-30", "DCAE_BAIR_Res64-1a8547fb.pth"))
    convert(file, "--out", "run")
    shown = capsys.readouterr().out
    for line in (
        "2 layers, 2 heads of 16",
        "preset small-30\n",
        "has the hash",
        "convert DCAE_BAIR_Res64-1a8547fb.pth",
    ):
        assert line in shown
    assert read_config(Path("run") / CONFIG) == PRESETS["small-30"]
    convert(file.rename("FAR.pth"), "--out", "nearest")
    shown = capsys.readouterr().out
    assert "preset small-16 (as large, with other settings: small-30; choose with --preset)\n" in shown
    assert "no hash in the name" in shown
    convert("FAR.pth", "--out", "chosen", "--preset", "small-30")
    assert "preset small-30\n" in capsys.readouterr().out
    assert read_config(Path("chosen") / CONFIG) == PRESETS["small-30"]
    assert "no preset of a published model 'maze'" in refused("FAR.pth", "--out", "x", "--preset", "maze")
    assert "one of the two is a long model" in refused("FAR.pth", "--out", "x", "--preset", "dmlab-64")
    for name, alike in (("dmlab-64", ()), ("far-l", ("ucf101-128", "ucf101-256"))):  # far-b-long is the very same
        preset = PRESETS[name]
        assert isinstance(preset, WorldModelConfig)
        assert _world_model_config(preset.model, Path("x.pth"), None)[2] == alike


def test_a_model_of_ours_becomes_a_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    model = random_transformer(LONG)
    write_config(WorldModelConfig(model=LONG), Path("run") / CONFIG)
    write_weights(Path("run") / WEIGHTS, model.state_dict())
    convert("run", "--to-official", "--out", "FAR.pth")
    assert "the action that led to it" in capsys.readouterr().out
    weights = torch.load("FAR.pth", weights_only=True)
    assert set(weights) == set(recorded("far_long_action"))
    assert weights["context_proj_out.weight"].abs().max() == 0
    assert weights["transformer_blocks.1.attn.norm_added_q.weight"].unique() == 1
    convert("FAR.pth", "--out", "again", "--latent-size", 4)
    again = load_weights(Transformer(LONG), Path("again") / WEIGHTS)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (replace(SHORT, patch=2), "no patches of 2 x 2"),
        (replace(SHORT, attention="full"), "no full attention"),
        (replace(SHORT, condition="vector", action_size=3), "actions that are vectors"),
    ],
)
def test_what_has_no_published_counterpart_is_not_written(config: TransformerConfig, says: str) -> None:
    write_config(WorldModelConfig(model=config, clean_context=0.0), Path("run") / CONFIG)
    write_weights(Path("run") / WEIGHTS, Transformer(config).state_dict())
    assert says in refused("run", "--to-official", "--out", "FAR.pth")
    assert not Path("FAR.pth").exists()


class Code:
    """Unpickled by Python itself, this makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_code_in_a_file_is_not_run() -> None:
    saying = refused(saved({"x_embedder.weight": torch.ones(2, 2), "code": Code()}, "FAR"), "--out", "run")
    assert "wants to run" in saying and "mkdir" in saying
    Path("plain.pth").write_bytes(pickle.dumps(Code()))
    assert "damaged, cut off or no file of torch.save" in refused("plain.pth", "--out", "run")
    assert not Path("executed").exists() and not Path("run").exists()
    pickle.loads(pickle.dumps(Code()))
    assert Path("executed").exists()  # so it would have been


def test_damaged_files() -> None:
    whole = saved(recorded("far_long_action"), "FAR")
    content = whole.read_bytes()
    Path("cut.pth").write_bytes(content[: len(content) // 2])
    assert "damaged, cut off" in refused("cut.pth", "--out", "run")
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    whole.write_bytes(changed)
    name, stated = name_and_hash(whole)
    assert all(
        word in refused(whole, "--out", "run") for word in (f"begins with {stated}", "download", f"to {name}.pth")
    )
    whole.rename("FAR.pth")
    convert("FAR.pth", "--out", "as_it_is")
    with zipfile.ZipFile("other.pth", "w") as archive:
        archive.writestr("letter.txt", "Dear reader")
    assert "damaged, cut off or no file of torch.save" in refused("other.pth", "--out", "run")
    Path("noise.safetensors").write_bytes(content[:1000])
    assert "no safetensors file" in refused("noise.safetensors", "--out", "run")
    assert "is no file" in refused("nowhere.pth", "--out", "run")


def misfit(**changes: Tensor | None) -> dict[str, Tensor]:
    weights: dict[str, Any] = {**recorded("far_long_action"), **{k.replace("__", "."): v for k, v in changes.items()}}
    return {name: weight for name, weight in weights.items() if weight is not None}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.ones(3), "holds a Tensor"),
        ({"epoch": 3, "state_dict": {"a": torch.ones(1)}}, "torch.save(checkpoint['state_dict'], FILE)"),
        ({"a": torch.ones(1)}, "no FAR transformer and of no DC-AE"),
        ({}, "no FAR transformer and of no DC-AE"),
        (misfit(proj_out__bias=None), "missing: proj_out.bias"),
        (misfit(context_proj_out__bias=None), "missing: context_proj_out.bias"),
        (misfit(pos_embed__weight=torch.ones(1)), "unexpected: pos_embed.weight"),
        (misfit(norm_out__linear__bias=torch.ones(5)), "norm_out.linear.bias [5] instead of [64]"),
        (misfit(transformer_blocks__0__attn__norm_q__weight=None), "has no transformer_blocks.0.attn.norm_q.weight"),
        (misfit(transformer_blocks__999999999__x=torch.ones(1)), "has no transformer_blocks."),
        (misfit(context_embedder__weight=torch.ones(32, 20)), "context_embedder.weight [32, 20] instead of [32, 16]"),
    ],
)
def test_what_does_not_fit_is_named(content: Any, says: str) -> None:
    assert says in refused(saved(content, "FAR"), "--out", "run")
    assert not Path("run").exists()


def test_autoencoders_that_do_not_fit_are_named() -> None:
    weights = dict(published_autoencoder(DCAE).state_dict())
    bias = weights.pop("decoder.conv_in.bias")
    assert "missing: decoder.conv_in.bias" in refused(saved(weights, "DCAE"), "--out", "run")
    weights |= {"decoder.conv_in.bias": bias, "encoder.down_blocks.2.0.attn.to_qkv.weight": torch.ones(1)}
    assert "unexpected: encoder.down_blocks.2.0.attn.to_qkv.weight" in refused(saved(weights, "DCAE"), "--out", "run")
    weights = {name: weight for name, weight in weights.items() if not name.startswith("encoder.down_blocks")}
    assert "has no encoder.down_blocks" in refused(saved(weights, "DCAE"), "--out", "run")


def test_a_run_gets_its_autoencoder_at_once_or_later() -> None:
    transformer = saved(recorded("far_action"), "FAR")
    autoencoder = saved(published_autoencoder(DCAE).state_dict(), "DCAE")
    convert(transformer, "--out", "run", "--latent-size", 4)
    with pytest.raises(UserError, match=r"nextframe convert DCAE_FILE.pth --out run/autoencoder"):
        nextframe.load("run", "cpu")
    convert(autoencoder, "--out", "run/autoencoder")
    convert(transformer, "--autoencoder", autoencoder, "--out", "both", "--latent-size", 4)
    convert(transformer, "--autoencoder", "run/autoencoder", "--out", "copied", "--latent-size", 4)
    clip, actions = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8), torch.tensor([1, 2])
    frames = [nextframe.load(run, "cpu").walk(clip, actions).step(1) for run in ("run", "both", "copied")]
    assert all(torch.equal(frame, frames[0]) for frame in frames)
    assert {path.name for path in (Path("copied") / AUTOENCODER).iterdir()} == {CONFIG, WEIGHTS}


def test_an_autoencoder_whose_latents_were_never_scaled_is_refused() -> None:
    """Straight from training it is: `encode` measures the scale, and keeps it beside the latents."""
    transformer = saved(recorded("far_action"), "FAR")
    convert(saved(published_autoencoder(DCAE).state_dict(), "DCAE"), "--out", "autoencoder", "--latent-size", 4)
    weights = Path("autoencoder") / WEIGHTS
    write_weights(weights, {**read_weights(weights), "scale": torch.tensor(1.0)})
    said = refused(transformer, "--autoencoder", "autoencoder", "--out", "r", "--latent-size", 4)
    assert "have never been scaled: name the autoencoder beside the latents" in said and not Path("r").exists()


def test_an_autoencoder_of_other_latents_is_refused_and_nothing_written() -> None:
    transformer = saved(recorded("far_action"), "FAR")
    other = saved(published_autoencoder(replace(DCAE, latent_channels=8)).state_dict(), "DCAE")
    assert "makes latents of 8 x 8 x 8, the world model takes 4" in refused(
        transformer, "--autoencoder", other, "--out", "r"
    )
    assert "name an autoencoder" in refused(transformer, "--autoencoder", transformer, "--out", "r")
    assert "is not a run" in refused(transformer, "--autoencoder", "nowhere", "--out", "r")
    assert not Path("r").exists()
    convert(transformer, "--out", "r")
    assert "choose the one it was trained with" in refused(other, "--out", "r/autoencoder")
    assert "leave out --autoencoder" in refused(other, "--autoencoder", other, "--out", "s")
    assert "with --out s/autoencoder" in refused(transformer, "--scale", 1, "--out", "s")
    assert "give a positive number" in refused(other, "--scale", 0, "--out", "s")
    bair, dmlab = transformer.rename("FAR_B_BAIR_Uncond64.pth"), other.rename("DCAE_DMLab_Res64.pth")
    saying = refused(bair, "--autoencoder", dmlab, "--out", "s")
    assert "trained with DCAE_BAIR_Res64-1a8547fb.pth, not with DCAE_DMLab_Res64.pth" in saying


def test_words_that_make_no_sense_are_refused() -> None:
    file = saved(recorded("far_long_action"), "FAR")
    convert(file, "--out", "run")
    assert "is there already" in refused(file, "--out", "run")
    assert "add --to-official" in refused("run", "--out", "other")
    assert "make a run of it with nextframe convert" in refused(file, "--to-official", "--out", "x.pth")
    assert "must divide latent_size 5" in refused(file, "--out", "other", "--latent-size", 5)
    assert "at least 1" in refused(file, "--out", "other", "--latent-size", 0)
    assert "ends in a hash" in refused("run", "--to-official", "--out", "FAR-0123abcd.pth")
    assert "must end in .pth" in refused("run", "--to-official", "--out", "FAR.bin")
    assert "leave out the other options" in refused("run", "--to-official", "--out", "x.pth", "--latent-size", 4)
    (Path("run") / WEIGHTS).unlink()
    write_weights(Path("run") / WEIGHTS, {"head.bias": torch.ones(1)})
    assert "missing: embed.0.weight" in refused("run", "--to-official", "--out", "x.pth")


def test_without_conditions_there_is_no_guidance() -> None:
    config, name, _ = _world_model_config(replace(LONG, condition="none", classes=0), Path("anything.pth"), None)
    assert config.sample.guidance == 1 and config.model.condition == "none", name


def test_a_preset_is_told_what_the_model_is_told() -> None:
    for name in ("ucf101-128", "ucf101-128-labels", "ucf101-256-xl-labels"):
        preset = PRESETS[name]
        assert isinstance(preset, WorldModelConfig)
        found = PRESETS[_world_model_config(preset.model, Path("somebodys.pth"), None)[1]]
        assert isinstance(found, WorldModelConfig) and found.model.condition == preset.model.condition, name
