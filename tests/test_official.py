"""The same network as the published one: numbers recorded from the authors' code."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from nextframe import sampler
from nextframe.config import SampleConfig
from nextframe.layout import layout_of
from nextframe.official import config_from_published, from_published
from nextframe.sampler import Session, uncached_frame
from nextframe.transformer import Transformer

FOLDER = Path(os.environ.get("NEXTFRAME_OFFICIAL", Path(__file__).parent / "official"))
TOLERANCE = 1e-4


class Recording:
    """One recorded file, and our model with its weights."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        self.sampling = json.loads(metadata["sampling"])
        latents = self.tensors["forward.latents"]
        self.config = config_from_published(metadata["kind"], json.loads(metadata["config"]), latents.shape[-1])
        self.model = Transformer(self.config).eval()
        weights = {name.removeprefix("weights."): x for name, x in self.tensors.items() if name.startswith("weights.")}
        self.model.load_state_dict(from_published(weights, list(self.model.state_dict())))

    def conditions(self, frames: int) -> torch.Tensor | None:
        if self.config.condition == "action":
            return self.tensors["condition.action"][:, :frames]
        if self.config.condition == "label":
            return self.tensors["condition.label"][:, None].expand(-1, frames)
        return None


def test_official_files_are_there() -> None:
    """No file would be no test."""
    names = {"far_action", "far_flexrope_slope", "far_label", "far_long_action", "far_uncond"}
    own = Path(__file__).parent / "official"
    assert {path.stem for path in own.glob("*.safetensors")} == names
    assert list(FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_official(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(path)
    check_forward(recording)
    for guidance in recording.sampling["guidance_scales"]:
        check_rollout(recording, guidance, monkeypatch)


@torch.no_grad()
def check_forward(recording: Recording) -> None:
    latents, model = recording.tensors["forward.latents"], recording.model
    layout = layout_of(recording.config, latents.shape[1])
    fine = layout.segments[-1].frames
    time = recording.tensors["forward.timestep"].float()
    time[:, :-fine] = -2
    velocity = model(model.tokens(latents, layout), layout, time, recording.conditions(latents.shape[1]))
    expected = recording.tensors["forward.velocity"][:, -fine:]
    torch.testing.assert_close(model.latents(velocity), expected, atol=TOLERANCE, rtol=0)


def check_rollout(recording: Recording, guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    context, noise = recording.tensors["rollout.context"], recording.tensors["rollout.noise"]
    start, frames = context.shape[1], context.shape[1] + noise.shape[1]
    expected = recording.tensors[f"rollout.latents.guidance_{guidance}"]
    conditions = recording.conditions(frames)
    settings = SampleConfig(steps=recording.sampling["num_inference_steps"], guidance=guidance)
    monkeypatch.setattr(sampler, "frame_noise", lambda shape, seeds, frame: noise[:, frame - start])

    past = None if conditions is None else conditions[:, :start]
    session = Session(recording.model, context, past, frames, settings)
    for frame in range(start, frames):
        session.step(None if conditions is None else conditions[:, frame])
    torch.testing.assert_close(session.latents, expected, atol=TOLERANCE, rtol=0)

    latents = context
    for frame in range(start, frames):
        so_far = None if conditions is None else conditions[:, : frame + 1]
        latents = torch.cat([latents, uncached_frame(recording.model, latents, so_far, settings, [])[:, None]], dim=1)
    torch.testing.assert_close(latents, expected, atol=TOLERANCE, rtol=0)
