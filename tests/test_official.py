"""The same network as the published one: numbers recorded from the authors' code."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from nextframe.architecture import TransformerConfig
from nextframe.config import SampleConfig
from nextframe.layout import layout_of
from nextframe.published.names import from_published
from nextframe.sampler import uncached_frame
from nextframe.session import Session
from nextframe.transformer import Transformer

OWN = Path(__file__).parent / "official"
FOLDER = Path(os.environ.get("NEXTFRAME_OFFICIAL", OWN))
"""Any folder of such files: NEXTFRAME_OFFICIAL=FOLDER pytest -k official"""
TOLERANCE = 1e-4
PUBLISHED_BFLOAT16 = json.loads((Path(__file__).parent / "official" / "bfloat16.json").read_text())
"""How far the published code, on the same inputs under bfloat16 autocast on a CPU, is from its own float32."""


def config_from_published(kind: str, config: Mapping[str, Any], latent_size: int) -> TransformerConfig:
    """Our configuration from the keyword arguments of the published classes `FAR` and `FAR_Long`."""
    condition: Mapping[str, Any] = config.get("condition_cfg") or {"type": "none"}
    return TransformerConfig(
        latent_channels=config["in_channels"],
        latent_size=latent_size,
        layers=config["num_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
        rope_axes=tuple(config["axes_dims_rope"]),
        patch=config.get("patch_size", 1),
        coarse_patch=config["context_patch_size"] if kind == "FAR_Long" else None,
        window=config["short_term_ctx_winsize"],
        condition=condition["type"],
        classes=condition.get("num_classes") or condition.get("num_action_classes") or 0,
        action_of="departure",
        temporal_decay=float(config["slope_scale"]),
    )


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
    assert {path.stem for path in OWN.glob("*.safetensors")} == names
    assert list(FOLDER.glob("*.safetensors")), f"NEXTFRAME_OFFICIAL: {FOLDER} holds no .safetensors files"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_official(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(path)
    check_forward(recording)
    for guidance in recording.sampling["guidance_scales"]:
        check_rollout(recording, guidance, monkeypatch)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.safetensors")), ids=lambda path: path.stem)
def test_official_bfloat16(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The distance of bfloat16 to float32, beside the published code's own (where that was measured)."""
    recording = Recording(path)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity, expected = forward(recording)
    error = velocity.float() - expected
    ours = {"maximum": error.abs().max().item(), "rms": error.square().mean().sqrt().item()}
    theirs = PUBLISHED_BFLOAT16.get(path.stem)
    with capsys.disabled():
        print(f"\n{path.stem}: bfloat16 to float32, rms {ours['rms']:.4f}, published code {theirs and theirs['rms']}")
    limit = 1.5 * theirs["rms"] if theirs else 0.03 * expected.std().item()
    assert ours["rms"] < limit


def check_forward(recording: Recording) -> None:
    torch.testing.assert_close(*forward(recording), atol=TOLERANCE, rtol=0)


@torch.no_grad()
def forward(recording: Recording) -> tuple[torch.Tensor, torch.Tensor]:
    """Our velocities of the window, and the recorded ones."""
    latents, model = recording.tensors["forward.latents"], recording.model
    layout = layout_of(recording.config, latents.shape[1])
    fine = layout.segments[-1].frames
    time = recording.tensors["forward.timestep"].float()
    time[:, :-fine] = -2
    velocity = model(model.tokens(latents, layout), layout, time, recording.conditions(latents.shape[1]))
    return model.latents(velocity), recording.tensors["forward.velocity"][:, -fine:]


def check_rollout(recording: Recording, guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    context, noise = recording.tensors["rollout.context"], recording.tensors["rollout.noise"]
    start, frames = context.shape[1], context.shape[1] + noise.shape[1]
    expected = recording.tensors[f"rollout.latents.guidance_{guidance}"]
    conditions = recording.conditions(frames)
    settings = SampleConfig(steps=recording.sampling["num_inference_steps"], guidance=guidance)
    for place in ("session", "sampler"):
        monkeypatch.setattr(f"nextframe.{place}.frame_noise", lambda shape, seeds, frame: noise[:, frame - start])

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
