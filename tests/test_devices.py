"""What is applied to the network from outside changes no number."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import AUTOENCODER, LONG, random_transformer
from torch import nn

from nextframe.autoencoder import Autoencoder
from nextframe.config import TrainConfig, WorldModelConfig
from nextframe.devices import choose_threads, enough_room, multiply_in_float8, recompute_blocks
from nextframe.errors import UserError
from nextframe.layers import Block
from nextframe.learner import Learner, Task
from nextframe.objective import Clips, FrameFlowMatching

CONFIG = WorldModelConfig(model=replace(LONG, layers=3))


def loss_and_gradients(network: nn.Module, frames: int) -> list[torch.Tensor]:
    latents = torch.randn(2, frames, 3, 4, 4, generator=torch.Generator().manual_seed(frames))
    objective = FrameFlowMatching(CONFIG)
    clips = Clips(latents, torch.zeros(2, frames, dtype=torch.int64))
    network.zero_grad()
    loss = objective.score(network, objective.prepare(clips, torch.Generator().manual_seed(0))).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def test_recomputing_changes_nothing() -> None:
    network = random_transformer(CONFIG.model)
    plain = loss_and_gradients(network, 7)
    recompute_blocks(network)
    again = loss_and_gradients(network, 7)
    assert len(plain) == len(again) and all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_blocks_are_recomputed() -> None:
    network = random_transformer(CONFIG.model)
    calls = []
    block = network.blocks[0]
    assert isinstance(block, Block)
    block.mlp.register_forward_hook(lambda *_: calls.append(1))
    loss_and_gradients(network, 7)
    plain = len(calls)
    recompute_blocks(network)
    loss_and_gradients(network, 7)
    assert len(calls) - plain == 2 * plain


def test_float8_rounds_what_blocks_multiply_and_nothing_else() -> None:
    """Loss and gradients are off by what three bits of mantissa make, not more; names and weights stay."""
    pytest.importorskip("torchao.float8")
    network = random_transformer(CONFIG.model)
    names, exact = list(network.state_dict()), loss_and_gradients(network, 7)
    multiply_in_float8(network, emulated=True, device=torch.device("cpu"))
    rounded = loss_and_gradients(network, 7)
    assert list(network.state_dict()) == names
    errors = [float((one - other).norm() / one.norm()) for one, other in zip(exact, rounded, strict=True)]
    assert 0 < errors[0] < 0.02 and max(errors) < 0.3
    changed = [name for name, module in network.named_modules() if type(module).__name__ == "Float8Linear"]
    assert changed and all(name.startswith("blocks.") and "modulation" not in name for name in changed)


def test_float8_where_there_is_none() -> None:
    network = random_transformer(CONFIG.model)
    task = Task(network, FrameFlowMatching(CONFIG), lambda step: None, product=network)
    with pytest.raises(UserError, match="cpu multiplies no 8-bit floats: leave float8 off"):
        Learner(task, TrainConfig(device="cpu", float8="on"))


def test_flex_attention_where_it_has_no_backward_pass() -> None:
    network = random_transformer(CONFIG.model)
    task = Task(network, FrameFlowMatching(CONFIG), lambda step: None, product=network)
    with pytest.raises(UserError, match="no backward pass on cpu"):
        Learner(task, TrainConfig(device="cpu", flex_attention=True))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kept", "recomputed", "flex-attention"])
def test_compiled_blocks_are_the_same_function_for_all_lengths(how: str) -> None:
    """And few graphs serve all lengths, short clips and long ones: if each needed its own, that would never end."""
    script = Path(__file__).parent / "compiled_blocks.py"
    ran = subprocess.run([sys.executable, str(script), how], capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert found["difference"] < 1e-5
    assert 0 < found["graphs"][-1] == found["graphs"][-3] < 24, found


def test_an_autoencoder_has_no_blocks() -> None:
    autoencoder = Autoencoder(AUTOENCODER)
    task = Task(autoencoder, FrameFlowMatching(CONFIG), lambda step: None, product=autoencoder)
    plain = TrainConfig(device="cpu")
    for settings in (
        replace(plain, compile="on"),
        replace(plain, recompute=True),
        replace(plain, float8="emulated"),
        replace(plain, flex_attention=True),
    ):
        with pytest.raises(UserError, match="only transformers"):
            Learner(task, settings)


@pytest.mark.parametrize(("worth", "settled"), [(0.5, 1), (1.0, 1), (2.0, 2)])
def test_threads_that_only_wait_are_given_up(monkeypatch: pytest.MonkeyPatch, worth: float, settled: int) -> None:
    clock = [0.0]

    def work() -> None:
        clock[0] += 1.0 if torch.get_num_threads() == 1 else 1.0 / worth

    before = torch.get_num_threads()
    monkeypatch.setattr("nextframe.devices.time.perf_counter", lambda: clock[0])
    try:
        torch.set_num_threads(2)
        choose_threads(torch.device("cpu"), work)
        assert torch.get_num_threads() == settled
        torch.set_num_threads(1)
        choose_threads(torch.device("cpu"), lambda: pytest.fail("there is nothing to choose"))
    finally:
        torch.set_num_threads(before)


def test_what_a_processor_has_no_memory_for_is_one_line() -> None:
    with pytest.raises(UserError, match="no room"), enough_room("no room"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="cannot be multiplied"), enough_room("no room"):
        torch.mm(torch.zeros(2, 2), torch.zeros(3, 3))
