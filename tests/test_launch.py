"""Training on many processes: torchrun's command line, and docs/train.slurm with stand-ins for SLURM's commands."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import AUTOENCODER
from tiny import eventually, random_autoencoder, tiny_latents

from nextframe.checkpoint import WEIGHTS
from nextframe.journal import read_log

SCRIPT = Path(__file__).parents[1] / "docs" / "train.slurm"
STANDINS = {
    # srun itself would answer SIGTERM by killing its tasks: only the task may hear it.
    "srun": 'trap "echo killed >> $NOTES" TERM\nbash "$HERE/task" "$@" &\necho $! > "$HERE/pid"\n'
    'until wait "$(cat "$HERE/pid")"; status=$?; [ $status -lt 128 ]; do :; done\nexit $status\n',
    "task": 'trap "echo saved >> $NOTES; exit 0" TERM\necho "$@" >> "$NOTES"\n'
    'for _ in $(seq 200); do [ -e "$HERE/done" ] && exit 3; sleep 0.05; done\nexit 1\n',
    "scancel": 'echo "scancel $@" >> "$NOTES"\nkill -TERM "$(cat "$HERE/pid")"\n',
    "scontrol": '[ "$1" = show ] && echo node1 && echo node2 || echo "scontrol $@" >> "$NOTES"\n',
}


@pytest.fixture
def started(tmp_path: Path) -> subprocess.Popen[bytes]:
    for name, script in STANDINS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HERE": str(tmp_path),
        "NOTES": str(tmp_path / "notes"),
        "PYTHON": "python",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_GPUS_ON_NODE": "8",
    }
    process = subprocess.Popen(["bash", str(SCRIPT), "far-b-long", "--out", "RUN"], env=environment)
    written = [tmp_path / "notes", tmp_path / "pid"]
    assert eventually(lambda: all(path.exists() and path.read_text().endswith("\n") for path in written), 60)
    return process


def test_it_starts_one_torchrun_on_each_node(started: subprocess.Popen[bytes], tmp_path: Path) -> None:
    (tmp_path / "done").touch()
    assert started.wait(20) == 3  # what the step ends with
    said = (tmp_path / "notes").read_text()
    assert "python -m torch.distributed.run --nnodes 2 --nproc-per-node 8" in said
    assert "--rdzv-endpoint node1:20007 --rdzv-id 7" in said
    assert said.strip().endswith("-m nextframe train far-b-long --out RUN") and "scontrol" not in said


def test_it_gives_way_when_all_is_saved_and_comes_back(started: subprocess.Popen[bytes], tmp_path: Path) -> None:
    started.send_signal(signal.SIGTERM)
    assert started.wait(20) == 0
    _, *said = (tmp_path / "notes").read_text().splitlines()
    assert said == ["scancel --signal=TERM 7", "saved", "scontrol requeue 7"]


TINY = """maze --model.latent-channels 3 --model.latent-size 4 --model.layers 1 --model.heads 2 --model.head-dim 16
    --model.classes 3 --model.turns --model.headings 1 --model.rope-axes 2 10 4
    --model.patch 1 --model.coarse-patch 2 --model.window 4 --sample.slide 1
    --clip.frames 9 --clip.min-frames 4 --clip.windows 1 --train.steps 2 --train.batch 2 --train.log-every 1
    --train.precision float32"""


def test_the_command_line_of_the_readme_trains_one_run_in_two_processes(tmp_path: Path) -> None:
    tiny_latents(tmp_path / "latents")
    random_autoencoder(tmp_path / "latents", AUTOENCODER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command in (("one", [sys.executable]), ("two", launcher)):
        run = [*command, "-m", "nextframe", "train", *TINY.split(), "--data", str(tmp_path / "latents")]
        ran = subprocess.run([*run, "--out", str(tmp_path / name)], capture_output=True, text=True, timeout=200)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.count("walk in it") == 1
    one, two = ([line["loss"] for line in read_log(tmp_path / name)] for name in ("one", "two"))
    assert len(one) == 2 and two == pytest.approx(one, abs=1e-6)
    assert (tmp_path / "two" / WEIGHTS).exists()
