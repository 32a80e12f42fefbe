"""A configuration survives the disk, and nothing strange gets in."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nextframe.architecture import AutoencoderConfig, TransformerConfig
from nextframe.config import OptimizerConfig, WorldModelConfig
from nextframe.configfile import read_config, write_config
from nextframe.errors import UserError
from nextframe.presets import MAZE, PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_the_disk(name: str, tmp_path: Path) -> None:
    write_config(PRESETS[name], tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == PRESETS[name]


def test_yaml_reads_1e_4_as_text_and_we_do_not(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("kind: world-model\ntrain: {optimizer: {learning_rate: 1e-4}}\n")
    assert read_config(path).train.optimizer.learning_rate == 1e-4


def test_yaml_reads_a_bare_on_and_off_as_true_and_false_and_we_do_not(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("kind: world-model\ntrain: {compile: off}\nsample: {graphs: on}\n")
    config = read_config(path)
    assert isinstance(config, WorldModelConfig)
    assert (config.train.compile, config.sample.graphs) == ("off", "on")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: world-model\nmodle: {}", "unknown setting 'modle', did you mean 'model'"),
        ("kind: world-model\nmodel: {layers: many}", "model: layers: 'many' does not fit int"),
        ("kind: world-model\nmodel: {layers: true}", "True does not fit int"),
        ("kind: world-model\nmodel: {rope_axes: [16, 24]}", "rope_axes"),
        ("kind: world-model\nmodel: {condition: colour}", "'colour' does not fit"),
        ("kind: world-model\nmodel: {head_dim: 32}", "must add up to head_dim 32"),
        ("kind: world-model\nmodel: {memory: 16}", "set --sample.memory, .slide or .riflex instead"),
        ("kind: pudding", "kind must be one of"),
        ("[1, 2]", "kind must be one of"),
        ("kind: [", "not valid YAML"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_config(path)
    assert says in str(refused.value) and str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("preset", "wrong"),
    [
        ("train", {"steps": 0}),
        ("train", {"batch": 0}),
        ("train", {"accumulate": 0}),
        ("train", {"log_every": 0}),
        ("train", {"seed": -1}),
        ("clip", {"interval": 0}),
        ("clip", {"frames": 12}),
        ("sample", {"steps": 0}),
        ("sample", {"steps": 10**12}),
        ("sample", {"seed": 2**63}),
        ("train", {"seed": 2**63}),
        ("model", {"turns": (0, 0, 10**30, -1, 0)}),
        ("model", {"window": 0}),
        ("model", {"rope_axes": (15, 25, 24)}),
        ("model", {"turns": ()}),
        ("model", {"turns": (0, 1)}),
        ("model", {"headings": 1}),
        ("model", {"headings": 8}),  # other channels
        ("model", {"action_of": "departure"}),
    ],
)
def test_impossible_settings_are_refused(preset: str, wrong: dict) -> None:
    with pytest.raises(ValueError):
        replace(getattr(MAZE, preset), **wrong)


@pytest.mark.parametrize("name", ["dmlab-64", "ucf101-128-labels"])
def test_guidance_needs_a_model_that_was_told_nothing(name: str) -> None:
    preset = PRESETS[name]
    assert isinstance(preset, WorldModelConfig) and preset.sample.guidance > 1
    for guidance in (preset.sample.guidance, 0.0):
        sample = replace(preset.sample, guidance=guidance)
        with pytest.raises(ValueError, match=r"--sample\.guidance 1"):
            replace(preset, sample=sample, condition_dropout=0.0)
        with pytest.raises(ValueError, match="this model is told nothing"):
            replace(preset, sample=sample, model=replace(preset.model, condition="none"))


def test_impossible_models_are_refused() -> None:
    patches = ({"patch": 3}, {"coarse_patch": 16}, {"coarse_patch": 0}, {"patch": 4, "coarse_patch": 2})
    for wrong in (*patches, {"condition": "action"}):
        with pytest.raises(ValueError):
            replace(TransformerConfig(), **wrong)
    for wrong in ({"temporal_decay": 0.1}, {"coarse_patch": 4}):
        with pytest.raises(ValueError, match="sees all frames alike"):
            replace(TransformerConfig(), attention="full", **wrong)
    impossible: list[dict[str, Any]] = [{"frame_size": 60}, {"frame_size": 0}, {"encoder_layers": (1, 1)}]
    impossible += [{"latent_channels": 7}, {"latent_channels": 0}, {"decoder_channels": (-8, 8, 8, 8)}]
    impossible += [{"encoder_layers": (0, 4, 0, 2)}, {"decoder_layers": (0, 0, 10, 2)}, {"attention_stages": 5}]
    for wrong in impossible:
        with pytest.raises(ValueError):
            replace(AutoencoderConfig(), **wrong)
    with pytest.raises(ValueError, match="at least one channel"):
        replace(AutoencoderConfig(), decoder_channels=(0, *AutoencoderConfig().decoder_channels[1:]))
    with pytest.raises(ValueError, match="below 1"):
        OptimizerConfig(betas=(1.0, 0.999))
