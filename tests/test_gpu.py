"""What only a GPU can tell: pytest -m gpu tests/test_gpu.py. The reference is the plain path on the processor."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from typing import Literal

import pytest
import torch
from conftest import COMPASS, LONG, SHORT, random_transformer

from nextframe.architecture import TransformerConfig
from nextframe.config import OptimizerConfig, SampleConfig, TrainConfig, WorldModelConfig
from nextframe.learner import Learner, Task
from nextframe.objective import Clips, FrameFlowMatching
from nextframe.session import Session

DEVICE = "cuda"
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _there_is_one() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")


@pytest.mark.parametrize("graphs", ["off", "on"])
@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("slide", [1, 3])
@pytest.mark.parametrize("config", [SHORT, LONG, COMPASS], ids=["short", "long", "compass"])
def test_frames_are_those_of_the_processor(
    config: TransformerConfig, slide: int, guidance: float, graphs: Literal["on", "off"]
) -> None:
    """Over two rollouts, so that what is recorded is also replayed, and a session that grows in between."""
    if config is SHORT and (slide > 1 or guidance != 1):
        pytest.skip("no window that slides, and nothing to follow")
    sample = SampleConfig(steps=3, guidance=guidance, slide=slide)
    model, context, told = random_transformer(config), torch.randn(2, 3, 3, 4, 4), torch.randint(0, 3, (2, 20))
    made = {}
    for device, settings in (("cpu", sample), (DEVICE, replace(sample, graphs=graphs))):
        conditions = None if config.condition == "none" else told.to(device)
        past = None if conditions is None else conditions[:, :3]
        session = Session(copy.deepcopy(model).to(device), context.to(device), past, 12, settings)
        for frames in (12, 20):
            session.rewind(3)
            session.grow(frames)
            while session.frames < frames:
                session.step(None if conditions is None else conditions[:, session.frames])
        made[device] = session.latents.cpu()
    torch.testing.assert_close(made[DEVICE], made["cpu"], atol=1e-4, rtol=0)


def test_sessions_that_come_and_go_leave_the_recordings_of_others_alone() -> None:
    """More recordings than there are streams, and the oldest session goes: the others replay what they recorded."""
    sample, model = SampleConfig(steps=3, graphs="on"), random_transformer(LONG).to(DEVICE)
    context, told = torch.randn(1, 3, 3, 4, 4, device=DEVICE), torch.randint(0, 3, (1, 20), device=DEVICE)

    def walked(session: Session) -> torch.Tensor:
        session.rewind(3)
        while session.frames < 12:
            session.step(told[:, session.frames])
        return session.latents.clone()

    with torch.autocast("cuda", torch.bfloat16):
        plain = walked(Session(model, context, told[:, :3], 12, replace(sample, graphs="off")))
        sessions = [Session(model, context, told[:, :3], 12, sample) for _ in range(12)]
        for _ in range(3):
            for session in sessions:
                torch.testing.assert_close(walked(session), plain, atol=0.05, rtol=0)
            sessions = sessions[4:]


@pytest.mark.parametrize("flex_attention", [False, True], ids=["spans", "flex"])
@pytest.mark.parametrize("windows", [1, 2])
@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
def test_steps_are_those_of_the_processor(
    algorithm: Literal["adamw", "muon"], windows: int, flex_attention: bool
) -> None:
    clips = Clips(torch.randn(4, 9, 3, 4, 4), torch.randint(0, 3, (4, 9)), (9,) * windows)
    config, network = WorldModelConfig(model=LONG), random_transformer(LONG)
    losses = {}
    for device in ("cpu", DEVICE):
        optimizer = OptimizerConfig(algorithm=algorithm, learning_rate=1e-3)
        settings = TrainConfig(
            device=device,
            precision="float32",
            compile="off",
            optimizer=optimizer,
            flex_attention=flex_attention and device == DEVICE,
        )
        mine = copy.deepcopy(network)
        learner = Learner(Task(mine, FrameFlowMatching(config), lambda step: clips, product=mine), settings)
        losses[device] = []
        for step in range(5):
            losses[device].append(learner.differentiate(learner.inputs(step)).item())
            learner.update(1e-3, step)
    assert losses[DEVICE] == pytest.approx(losses["cpu"], abs=1e-4)


@pytest.mark.parametrize(
    "work",
    [
        "train --batch 2 --frames 20",
        "train --batch 2 --frames 20 --float8 on",
        "train --batch 2 --frames 20 --flex-attention",
        "sample --frames 4",
        "sample --frames 4 --graphs off",
        "play",
    ],
)
def test_the_bench_runs_as_users_run_it(work: str) -> None:
    """Compiled, in bfloat16, in a process without the checks of shapes that tests have."""
    if "float8" in work:
        pytest.importorskip("torchao.float8")
        if torch.cuda.get_device_capability() < (8, 9):
            pytest.skip("needs a GPU that multiplies 8-bit floats")
    command = f"-m nextframe bench {work} --preset maze --device {DEVICE} --repeats 2 --seconds 0 --json"
    ran = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["matrix_share"] > 0
