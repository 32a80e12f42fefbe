"""Every verb once, on real footage from the engine, by the command line alone; and what it says to bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_latents, tiny_run

from nextframe.cli import main, overview, run_command
from nextframe.commands.whole import seconds_of
from nextframe.data.latents import write_index
from nextframe.errors import UserError

TINY_AUTOENCODER = """
    --model.encoder-channels 8 16 16 16 --model.decoder-channels 8 16 16 16 --model.encoder-layers 0 1 1 1
    --model.decoder-layers 0 1 1 1 --train.device cpu --train.batch 4
""".split()  # noqa: SIM905 - a list of words
TINY_WORLD = """
    --model.layers 1 --model.heads 2 --model.head-dim 16 --model.rope-axes 2 2 4 --model.window 4
    --sample.slide 2 --clip.frames 16 --clip.min-frames 4 --clip.windows 1 --train.device cpu --train.batch 2
""".split()  # noqa: SIM905 - a list of words


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """record -> train autoencoder -> encode -> train world model, tiny."""
    home = tmp_path_factory.mktemp("loop")
    for split, episodes in (("train", 3), ("test", 2)):
        command = f"record maze --out {home}/data --episodes {episodes} --split {split} --frames 24 --workers 1"
        run_command(command.split())
    autoencoder = f"train autoencoder-maze --data {home}/data --out {home}/autoencoder --train.steps 2".split()
    run_command([*autoencoder, *TINY_AUTOENCODER])
    encode = f"encode --autoencoder {home}/autoencoder --data {home}/data --out {home}/latents --device cpu"
    run_command(encode.split())
    world = f"train maze --data {home}/latents --out {home}/world --train.steps 2".split()
    run_command([*world, *TINY_WORLD])
    return home


def test_the_whole_loop(loop: Path) -> None:
    sample = f"sample --model {loop}/world --data {loop}/data --out {loop}/sample --context 8 --frames 6 --episodes 1"
    run_command([*sample.split(), "--steps", "2", "--device", "cpu"])
    with np.load(loop / "sample" / "test_000000.npz") as made:
        assert made["video"].shape == (14, 64, 64, 3)
    assert (loop / "sample" / "test_000000.mp4").stat().st_size > 1000
    run_command(f"inspect {loop}/data --out {loop}/inspected".split())
    assert (loop / "inspected" / "inspect.html").exists()


def test_encoding_again_does_nothing_twice(loop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = loop / "latents" / "latents.json"
    shards = {path: path.stat().st_mtime_ns for path in (loop / "latents").glob("*.safetensors")}
    before = json.loads(index.read_text())
    assert len(before["episodes"]) == 5 and 0 < before["episodes"][0]["psnr"] < 60
    encode = f"encode --autoencoder {loop}/autoencoder --data {loop}/data --out {loop}/latents --device cpu"
    run_command(encode.split())
    assert json.loads(index.read_text()) == before
    assert shards == {path: path.stat().st_mtime_ns for path in (loop / "latents").glob("*.safetensors")}


def test_latents_have_unit_variance_and_keep_their_autoencoder(loop: Path) -> None:
    import torch

    from nextframe.data.latents import LatentDataset
    from nextframe.runs import load_autoencoder

    dataset = LatentDataset(loop / "latents")
    latents = [dataset.latents(episode, 0, episode.frames).float().flatten() for episode in dataset.index.episodes]
    assert float(torch.cat(latents).std()) == pytest.approx(1.0, abs=0.1)
    assert float(load_autoencoder(loop / "latents" / "autoencoder").scale) != 1.0


def test_other_frames_are_another_protocol(loop: Path, tmp_path: Path) -> None:
    asked = f"--model {loop}/world --data {loop}/data --out {tmp_path} --context 6 --frames 4 --episodes 1"
    run_command(["evaluate", "dmlab", *asked.split(), "--split", "test", "--seeds", "0", "--device", "cpu"])
    protocol = json.loads((tmp_path / "results.json").read_text())["protocol"]
    assert (protocol["context"], protocol["frames"], protocol["name"]) == (6, 4, "")
    assert "Beside the paper" not in (tmp_path / "report.html").read_text()


def test_an_exported_model_walks(loop: Path) -> None:
    import torch

    import nextframe

    run_command(f"export --model {loop}/world --out {loop}/exported".split())
    assert (loop / "exported").stat().st_mode == (loop / "world").stat().st_mode  # to be shared
    exported, original = nextframe.load(loop / "exported", "cpu"), nextframe.load(loop / "world", "cpu")
    size = (loop / "exported" / "weights.safetensors").stat().st_size
    assert size < 0.6 * (loop / "world" / "weights.safetensors").stat().st_size
    clip = torch.randint(0, 256, (6, 64, 64, 3), dtype=torch.uint8)
    walks = [model.walk(clip, torch.tensor([1, 1, 2, 3, 1])) for model in (exported, original)]
    for action in ("forward", 1, 4):  # the names are those of the footage
        frames = [walk.step(action) for walk in walks]
        assert frames[0].shape == (64, 64, 3) and frames[0].dtype == torch.uint8
        assert (frames[0].float() - frames[1].float()).abs().mean() < 8


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str) -> str:
    """The one line a command ends with when the user has to do something."""
    monkeypatch.setattr(sys, "argv", ["nextframe", *command.split()])
    with pytest.raises(SystemExit) as exit_status:
        main()
    assert exit_status.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    return error


@pytest.mark.parametrize(
    "command",
    [
        "record maze --episodes 1",
        "encode --autoencoder {loop}/autoencoder --data {loop}/data",
        "train maze --data {loop}/latents",
        "export --model {loop}/world",
        "sample --model {loop}/world --data {loop}/data --context 8 --frames 2 --episodes 1",
        "evaluate maze --model {loop}/world --data {loop}/data --context 8 --frames 2 --episodes 1",
        "inspect {loop}/data",
    ],
)
def test_nothing_is_written_to_object_storage(
    command: str,
    loop: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, monkeypatch, f"{command.format(loop=loop)} --out s3://bucket/out")
    assert "here" in said, said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("trian", "did you mean 'train'?"),
        ("train maz", "did you mean 'maze'?"),
        ("record doom", "choose maze"),
        ("evaluate mase --model x", "did you mean 'maze'?"),
        ("demo --train --budget soon", "write 90s, 10m or 1h30m"),
        ("demo --train --budget 5s", "at least 30s"),
        ("watch run --out run/config.yaml", "name it config.html"),
        ("evaluate maze --model a --model b --data d --out o", "--model is given twice"),
        ("train autoencoder-maze --data nowhere --out run", "nowhere is not a dataset"),
        ("train maze --data nowhere --out run", "nowhere holds no latents: it is not there"),
        ("encode --autoencoder nowhere --data nowhere --out out", "nowhere is not"),
        ("sample --model nowhere --data nowhere --out out", "nowhere is not a run"),
        ("inspect nowhere", "nowhere is not a dataset"),
        ("record maze --out x --episodes 0", "choose 1 to"),
        ("demo --budget 1m", "add it, or leave --budget out"),
        ("import list.json --autoencoder a --out o --skip-bad", "are for footage"),
        ("bench sample --preset far-b --slide 4", "slide must be 1"),
        ("bench sample --preset maze --against f.py", "give --slide 1"),
    ],
)
def test_bad_words_get_one_line(
    command: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert says in refused(capsys, monkeypatch, command)


def test_bad_data_gets_one_line(
    loop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = f"--model {loop}/world", f"--data {loop}/data"
    say = lambda command: refused(capsys, monkeypatch, command)  # noqa: E731
    refusal = say(f"sample {model} {data} --out o --context 20 --frames 10 --episodes 1")
    assert "`--episodes 1 --context 16 --frames 8`, or give longer episodes" in refusal
    assert "has 2 episodes of the split" in say(f"sample {model} {data} --out o --context 4 --frames 4 --episodes 9")
    assert "with `--episodes 2 --context 11 --frames 13`" in say(f"evaluate maze {model} {data} --out o")
    assert "with `--episodes 2 --context 0 --frames 24`" in say(
        f"sample {model} {data} --out o --context 0 --frames 30"
    )
    assert "is not there" in say(f"sample {model} {data} --out o --context 4 --frames 4 --device cuda:9")
    assert "is an autoencoder, not a world model" in say(f"export --model {loop}/autoencoder --out o")
    for command in ("sample --context 4 --frames 4", "evaluate maze --context 4 --frames 4"):
        for taken, what in (("data", "footage"), ("latents", "latents"), ("world", "a run")):
            assert f"{taken} holds {what}: choose another --out" in say(
                f"{command} {model} {data} --out {loop}/{taken}"
            )
    autoencoder = f"encode --autoencoder {loop}/autoencoder"
    assert "world holds a run: choose another --out" in say(f"{autoencoder} {data} --out {loop}/world")
    assert "latents is not a dataset: it holds latents" in say(f"{autoencoder} --data {loop}/latents --out o")
    encode = say(f"encode --autoencoder {loop}/world {data} --out o")
    assert f"is a world model, not an autoencoder: name that in it, {loop}/world/autoencoder" in encode
    assert "set --model.frame-size" in say(
        f"train autoencoder-maze {data} --out {tmp_path}/r --model.frame-size 128 --train.device cpu"
    )
    again = f"train maze --data {loop}/latents --out {loop}/world {' '.join(TINY_WORLD)}"
    assert "was begun with muon" in say(f"{again} --train.optimizer.algorithm adamw")
    assert "of another model (layers 1 -> 3): use" in say(f"{again} --model.layers 3")
    kept = tmp_path / "kept"
    subprocess.run(["cp", "-r", str(loop / "world"), str(kept)], check=True)
    shutil.rmtree(kept / "checkpoints")  # to save room; nothing may be trained over the weights that are left
    assert "holds a model that is finished" in say(again.replace(f"{loop}/world", str(kept)))
    run_command(["export", "--model", f"{loop}/world", "--out", f"{tmp_path}/small"])
    assert "holds a model that is finished" in say(f"train maze --data {loop}/latents --out {tmp_path}/small")
    weights = tmp_path / "copy" / "weights.safetensors"
    subprocess.run(["cp", "-r", str(loop / "world"), str(tmp_path / "copy")], check=True)
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "is damaged or no safetensors file" in say(
        f"sample --model {tmp_path}/copy {data} --out o --context 4 --frames 4 --episodes 1"
    )
    config = tmp_path / "copy" / "config.yaml"
    config.write_text(config.read_text().replace("window:", "windwo:"))
    assert "did you mean 'window'?" in say(f"sample --model {tmp_path}/copy {data} --out o")
    assert not list(Path().glob("o/*"))


def test_help_is_quick_and_knows_every_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # for both, wherever this runs
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "nextframe", "--help"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == overview()
    assert "torch" not in {line.split("|")[-1].strip() for line in shown.stderr.splitlines()}


def test_ctrl_c_while_it_starts_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "tyro.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")  # imported first
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"  # a test may run without
        f"sys.path.insert(0, {str(tmp_path)!r}); from nextframe.__main__ import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGINT and "Traceback" not in ended.stderr


def test_it_says_where_it_is_when_asked() -> None:
    """`kill -USR1`, of any command."""
    code = (
        "import os, signal; from nextframe import __main__, cli;"
        "cli.main = lambda: os.kill(os.getpid(), signal.SIGUSR1); __main__.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0 and "most recent call first" in ended.stderr
    closed = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m nextframe --version 2>&-"], capture_output=True, text=True
    )
    assert closed.returncode == 0 and closed.stdout.startswith("nextframe ")


@pytest.mark.parametrize("kind", ["other ids", "vectors", "none"])
def test_the_preset_of_mazes_says_how_it_learns_from_other_footage(kind: str, tmp_path: Path) -> None:
    dataset = tiny_latents(tmp_path / "latents", vectors=kind == "vectors")
    tiny_run(tmp_path).joinpath("autoencoder").rename(tmp_path / "latents/autoencoder")
    if kind == "none":
        write_index(tmp_path / "latents", replace(dataset.index, action_kind="none", action_names=()))
    command = ["train", "maze", "--data", f"{tmp_path}/latents", "--out", f"{tmp_path}/run", "--train.steps", "1"]
    latents = ["--model.latent-channels", "3", "--model.latent-size", "4", "--model.patch", "2"]
    command += [*TINY_WORLD, *latents, "--model.coarse-patch", "4"]
    with pytest.raises(UserError) as refused:
        run_command(command)
    way_out = re.search(r": (?:set (--[^,]+) with|train) the preset (\w+)", str(refused.value))
    assert way_out, refused.value
    command[1] = way_out[2]
    axes = command.index("--model.rope-axes")
    command[axes + 1 : axes + 4] = ["4", "6", "6"]  # those of the compass, too
    run_command([*command, *(way_out[1] or "").split()])
    weights = load_file(tmp_path / "run/weights.safetensors")
    if kind == "vectors":
        _, high = dataset.action_range()
        assert torch.equal(weights["condition.high"], high)


def test_durations() -> None:
    assert [seconds_of(text) for text in ("45", "90s", "10m", "1h30m", "2h")] == [45, 90, 600, 5400, 7200]
    for text in ("", "soon", "-3m", "10 minutes"):
        with pytest.raises(UserError):
            seconds_of(text)


def test_overrides_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        run_command(["train", "maze", "--data", "d", "--out", "o", "--model.layer", "3"])
    assert exit_status.value.code == 2
    assert "--model.layers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clip.interval", "2"], "set --clip.interval 1"),
        (["--clean-context", "10"], "set --clean-context below 1"),
        (["--condition-dropout", "1.5"], "must be at most 1"),
        (["--condition-dropout", "0", "--sample.guidance", "2"], "set --condition-dropout above 0"),
        (["--clip.ramp", "0.5", "--train.minutes", "1"], "set --clip.ramp 0"),
        (["--sample.memory", "4"], "less than the window of 16 frames"),
        (["--model.coarse-patch", "None", "--clip.windows", "1"], "set --sample.slide 1"),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_command(["train", "maze", "--data", "data", "--out", "run", *options])


def test_what_is_no_text_is_printed_all_the_same() -> None:
    """Names of files need not be; most systems' standard output refuses them."""
    script = "from nextframe import cli; cli.run_command = lambda _: print('\\udcff'); cli.main()"
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    printed = subprocess.run([sys.executable, "-c", script], env=strict, capture_output=True, text=True, timeout=60)
    assert printed.returncode == 0 and "udcff" in printed.stdout, printed.stderr


def test_lists_of_names_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    run_command(["train", "--help"])
    lines = [*overview().splitlines(), *capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 60
    assert next(line for line in lines if line.startswith("  maze")).endswith("clips of")  # and goes on below
    monkeypatch.setenv("COLUMNS", "10")
    assert "  evaluate  Score a model by a\n" in overview()  # 20 characters of text at least
