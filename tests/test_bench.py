"""The bench: arithmetic counted right, keys that mean what they say, rivals in turns, errors in one line."""

import json
import platform
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import LONG, SHORT, random_transformer
from tiny import MODEL, TOKENIZER, tiny_run
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nextframe.architecture import TransformerConfig
from nextframe.bench.measure import bench, median_of_means, sampled_laps, table
from nextframe.bench.stopwatch import Lap, in_turns, percentile_95
from nextframe.bench.testbed import fitting_autoencoders, randomised, world_preset
from nextframe.bench.workload import SampleBench, Subject, TrainBench
from nextframe.cli import run_command
from nextframe.config import SampleConfig, TokenizerConfig, WorldModelConfig
from nextframe.devices import matrix_rate
from nextframe.errors import UserError
from nextframe.flops import frame_flops, frames_of, training_flops, visible_pairs
from nextframe.layout import FINE, Layout, layout_of
from nextframe.presets import PRESETS
from nextframe.transformer import Transformer

TRAIN = "bench train --preset tiny --batch 2 --frames 6 --dtype float32 --device cpu --repeats 3 --seconds 0"
SAMPLE = "bench sample --preset tiny --context 5 --frames 3 --dtype float32 --device cpu --repeats 2 --seconds 0"
PLAY = "bench play --preset tiny --context 5 --dtype float32 --device cpu --repeats 4 --seconds 0"
ADAPTER = """
from pathlib import Path

def build(kind, config, batch, frames, context, steps, dtype, device):
    assert config["layers"] and dtype == "float32" and device == "cpu"
    Path("asked").write_text(f"{kind} {batch} {frames} {context} {steps}")
    print("a rival may talk")

    def unit():
        import time
        time.sleep(0.05)

    return unit
"""


@pytest.fixture(autouse=True)
def _tiny_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", WorldModelConfig(model=MODEL, sample=SampleConfig(steps=2, guidance=1.5)))
    monkeypatch.setattr("nextframe.bench.testbed.matrix_rate", lambda device, dtype: 1.0)  # the real one takes a second
    monkeypatch.setitem(PRESETS, "tiny-autoencoder", TokenizerConfig(model=TOKENIZER))


def measured(capsys: pytest.CaptureFixture[str], command: str) -> dict[str, Any]:
    """What the command prints on standard output, which is one JSON object and nothing else."""
    run_command([*command.split(), "--json"])
    return json.loads(capsys.readouterr().out)


# Arithmetic


def counted(model: Transformer, layout_frames: int, batch: int = 1) -> int:
    """What torch counts in a forward pass on a whole clip."""
    config = model.config
    layout = layout_of(config, layout_frames)
    latents = torch.randn(batch, layout_frames, config.latent_channels, config.latent_size, config.latent_size)
    told = None if config.condition == "none" else torch.zeros(batch, layout_frames, dtype=torch.int64)
    # Torch does not count its fused attention on a processor, the plain one it does.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(model.tokens(latents, layout), layout, torch.zeros(batch, layout_frames), told)
    return counter.get_total_flops()


def test_one_frame_costs_what_torch_counts() -> None:
    # One frame hides nothing from itself, so that mathematics and code agree to the last operation.
    assert training_flops(SHORT, 2, [1]) == 3 * counted(random_transformer(SHORT), 1, batch=2)


@pytest.mark.parametrize("config", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("frames", [3, 9])
def test_a_clip_costs_what_torch_counts_less_what_is_hidden(config: TransformerConfig, frames: int) -> None:
    """Torch counts every product that is computed: also of queries with keys that a mask hides from them, and the
    modulations of coarse frames that nobody reads in the last block. We count what the mathematics asks for."""
    clip = frames_of(layout_of(config, frames))
    tokens = [frame for frame in clip for _ in range(frame.tokens)]
    seen = sum(key.index <= query.index for query in tokens for key in tokens)
    assert visible_pairs(config, clip, clip) == seen
    ours, theirs = training_flops(config, 1, [frames]) / 3, counted(random_transformer(config), frames)
    hidden = 4 * config.width * config.layers * (len(tokens) ** 2 - seen)
    unread = 12 * config.width**2 * sum(frame.level != FINE for frame in clip)
    assert ours <= theirs <= ours + hidden + unread


def test_full_attention_hides_nothing() -> None:
    full = replace(SHORT, attention="full")
    clip = frames_of(layout_of(full, 3))
    assert visible_pairs(full, clip, clip) == (3 * 16) ** 2


def test_a_frame_of_a_rollout_costs_its_steps_and_what_was_not_read() -> None:
    in_window, sliding = frame_flops(LONG, 2, steps=1), frame_flops(LONG, 8, steps=1)
    step = frame_flops(LONG, 8, steps=2) - sliding
    assert 0 < step < in_window < sliding
    assert frame_flops(LONG, 8, steps=5) == sliding + 4 * step
    # Sliding, the window is read anew behind one more coarse frame: three fine frames in place of one.
    assert 2.5 < sliding / step < 5
    # Without a past there is nothing to read: one pass over one frame.
    assert 3 * frame_flops(SHORT, 0, steps=1) == training_flops(SHORT, 1, [1])


# What is measured


def test_training_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, TRAIN)
    assert found["kind"] == "train" and found["preset"] == "tiny" and found["against"] is None
    assert (found["batch"], found["frames"], found["repeats"], found["compiled"]) == (2, 6, 3, False)
    tokens = layout_of(MODEL, 6).tokens
    assert found["tokens_per_clip"] == tokens == 2 * 4 + 4 * 16
    assert 0 < found["seconds_per_step"] < found["seconds_per_whole_step"] <= found["seconds_per_whole_step_p95"]
    assert found["frames_per_second"] == pytest.approx(2 * 6 / found["seconds_per_whole_step"])
    assert found["tokens_per_second"] == pytest.approx(2 * tokens / found["seconds_per_whole_step"])
    assert found["tflop"] == pytest.approx(training_flops(MODEL, 2, [6]) / 1e12)
    assert found["tflop_per_second"] == pytest.approx(found["tflop"] / found["seconds_per_step"])
    assert found["matrix_tflop_per_second"] == 1 and found["matrix_share"] == found["tflop_per_second"]
    assert found["peak_resident_growth_gib"] >= 0 and found["compile_seconds"] is None
    assert found["hardware"] and found["dtype"] == "float32" and found["device"] == "cpu"
    assert found["versions"]["torch"] == torch.__version__ and found["versions"]["python"] == platform.python_version()


def test_arithmetic_of_resampled_context_is_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], resampled_context=0.5))
    assert measured(capsys, TRAIN)["tflop"] == pytest.approx(4 / 3 * training_flops(MODEL, 2, [6]) / 1e12)


def test_sampling_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(capsys, SAMPLE + " --batch 2")
    assert (found["kind"], found["context"], found["frames"], found["steps"]) == ("sample", 5, 3, 2)
    assert found["guidance"] == 1 and found["repeats"] == 6  # two rollouts of three frames
    assert 0 < found["seconds_per_frame"] < found["seconds_per_frame_decoded"]
    assert found["seconds_first_frame"] > 0
    assert found["tokens_per_frame"] == 16
    assert found["tokens_per_second"] == pytest.approx(2 * 16 / found["seconds_per_frame"])
    assert found["frames_per_second_decoded"] == pytest.approx(2 / found["seconds_per_frame_decoded"])
    assert found["tflop"] == pytest.approx(2 * frame_flops(MODEL, 6, 2) / 1e12, rel=0.1)


def test_guidance_and_heun_are_twice_the_work_and_decoding_is_optional(capsys: pytest.CaptureFixture[str]) -> None:
    plain, guided, heun = (
        measured(capsys, f"{SAMPLE} --no-decode --steps 9 {more}") for more in ("", "--guidance 1.5", "--solver heun")
    )
    assert "seconds_per_frame_decoded" not in plain
    assert guided["tflop"] == pytest.approx(2 * plain["tflop"])
    assert 1.5 < heun["tflop"] / plain["tflop"] < 2


def test_play_is_one_walk_with_the_models_own_guidance(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[Lap] = []
    monkeypatch.setattr("nextframe.bench.measure.choose_threads", lambda device, work: frames.extend(work()))
    found = measured(capsys, PLAY)
    assert frames, "the number of threads is chosen by frames of the walk, as `play` does"
    assert (found["kind"], found["batch"], found["repeats"], found["guidance"]) == ("play", 1, 4, 1.5)
    assert found["seconds_per_frame_decoded"] <= found["seconds_per_frame_decoded_p95"]


def test_a_run_is_measured_with_its_own_autoencoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(tmp_path / "run")
    found = measured(capsys, PLAY.replace("--preset tiny", f"--model {run}"))
    assert found["model"] == str(run) and found["preset"] is None
    with pytest.raises(UserError, match="autoencoder of its own"):
        run_command([*PLAY.replace("--preset tiny", f"--model {run}").split(), "--autoencoder", "tiny-autoencoder"])


def test_the_table_has_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(SampleBench(Subject(preset="tiny", device="cpu", repeats=1, seconds=0), context=5, frames=2))
    shown = capsys.readouterr().out
    assert shown.strip() == table(found).strip()
    assert "a frame, decoded to uint8" in shown and "share of that" in shown and "GiB" in shown


def test_nothing_random_is_zero() -> None:
    assert all(weight.any() for weight in randomised(Transformer(MODEL)).parameters())


def test_published_presets_are_decoded_by_their_8x_autoencoder() -> None:
    assert next(iter(fitting_autoencoders(world_preset("far-b-long").model))) == "autoencoder-8x"
    assert next(iter(fitting_autoencoders(world_preset("maze").model))) == "autoencoder-maze"


def test_matrix_rate_is_a_rate() -> None:
    assert 0.001 < matrix_rate(torch.device("cpu"), torch.float32) < 1000


# Turns


def test_turns_alternate_until_there_are_enough() -> None:
    order: list[str] = []

    def ours():
        while True:
            order.append("ours")
            yield Lap(1.0, 2.0)

    laps, rival = in_turns(ours(), lambda: order.append("rival"), 3, 0.0, torch.device("cpu"))
    assert order == ["ours", "rival"] * 3
    assert len(laps) == len(rival) == 3
    laps, rival = in_turns(ours(), None, 1, 0.05, torch.device("cpu"))
    assert len(laps) > 1 and not rival


def test_percentile() -> None:
    assert percentile_95([3.0, 1.0, 2.0]) == 3.0
    assert percentile_95([float(number) for number in range(1, 101)]) == 95.0


@pytest.mark.parametrize(
    ("command", "key", "asked"),
    [(TRAIN, "seconds_per_step", "train 2 6 0 0"), (SAMPLE, "seconds_per_frame", "sample 1 3 5 2")],
    ids=["train", "sample"],
)
def test_a_rival_is_timed_beside_us(
    command: str, key: str, asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sleeper.py").write_text(ADAPTER)
    found = measured(capsys, f"{command} --against {tmp_path}/sleeper.py")
    rival = found["against"]
    assert rival["name"] == "sleeper" and rival[key] >= 0.05
    assert rival["ratio"] == pytest.approx(rival[key] / found[key])
    low, high = rival["ratio_spread"]
    assert 0 < low <= high
    assert Path("asked").read_text() == asked


def test_autocast_does_not_reach_a_rival(tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text(
        "import torch\n"
        "def build(**work):\n"
        "    def unit():\n"
        "        assert not torch.is_autocast_enabled('cpu')\n"
        "    return unit\n"
    )
    subject = Subject(preset="tiny", device="cpu", dtype="bfloat16", repeats=1, seconds=0)
    against = SampleBench(subject, context=5, frames=1, decode=False, against=tmp_path / "asks.py")
    assert bench(against)["dtype"] == "bfloat16"


# Errors


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("bench trian", "did you mean 'train'"),
        ("bench train --preset tinny", "did you mean 'tiny'"),
        ("bench train --preset autoencoder-maze", "no world model preset 'autoencoder-maze'"),
        ("bench sample --batch 0", "--batch is 0: it must be at least 1"),
        ("bench train --seconds -1", "--seconds is -1"),
        ("bench play --device cuda:99", "is not there"),
        ("bench sample --model nowhere", "nowhere"),
        (SAMPLE + " --autoencoder autoencoder-8x", "choose tiny-autoencoder"),
        (SAMPLE + " --steps 0", "steps is 0"),
        ("bench sample --preset video-dit-tiny --device cpu", "all frames of a clip at once"),
        (TRAIN + " --against nowhere.py", "nowhere.py is not there"),
        (TRAIN + " --against empty.py", "defines no function build"),
        (TRAIN + " --against notes.txt", "its name must end in .py"),
        (SAMPLE + " --against empty.py --guidance 2", "leave --guidance at 1"),
    ],
)
def test_errors_name_the_way_out(command: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video_dit = WorldModelConfig(model=replace(SHORT, attention="full"), clean_context=0.0)
    monkeypatch.setitem(PRESETS, "video-dit-tiny", video_dit)
    Path("empty.py").write_text("")
    Path("notes.txt").write_text("")
    with pytest.raises(UserError, match=r"\w") as error:
        run_command(command.split())
    assert says in str(error.value) and "\n" not in str(error.value)


def test_seconds_(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench(TrainBench(Subject(preset="maze", device="cpu", repeats=1, seconds=0), batch=2, frames=3))
    assert found["seconds_per_window"] == pytest.approx(found["seconds_per_step"] / 2)


def test_every_rollout_reads_its_context_anew() -> None:
    done: list[Any] = []
    session: Any = SimpleNamespace(
        rewind=done.append, cache=SimpleNamespace(rewind=done.append), step=lambda condition: done.append("step")
    )
    bed: Any = SimpleNamespace(config=WorldModelConfig(model=LONG), device=torch.device("cpu"))
    laps = sampled_laps(session, SampleBench(context=5, frames=2), bed, None, [])
    for _ in range(4):
        next(laps)
    assert done == [5, Layout(), "step", "step", "step"] * 2


def test_a_part_of_a_slide_is_no_mean() -> None:
    assert median_of_means([1.0, 2.0, 3.0, 100.0], 3) == 2 and median_of_means([4.0], 3) == 4


def test_arithmetic_is_of_the_frames_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "tiny", WorldModelConfig(model=LONG))
    subject = Subject(preset="tiny", device="cpu", repeats=1, seconds=0)
    found = bench(SampleBench(subject, context=5, frames=3, steps=2, solver="even-euler", slide=1, decode=False))
    flops = [frame_flops(LONG, past, 2) for past in (6, 7, 8)]
    assert len(set(flops)) > 1 and found["tflop"] == pytest.approx(sum(flops) / 3 / 1e12)
