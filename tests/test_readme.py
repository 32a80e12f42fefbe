"""What the README shows works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nextframe.cli import VERBS
from nextframe.config import WorldModelConfig
from nextframe.presets import PRESETS, PROTOCOLS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = example + "\nassert frame.shape == (64, 64, 3)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)


def test_the_examples_of_extending_run(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    assert len(examples) == 3
    check = """
assert [clip.shape for clip in clips] == [(8, 64, 64, 3)] * 2
assert not torch.equal(*clips) and len(footage.episodes()) == 3
assert Path("run/weights.safetensors").exists()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", "\n".join(examples) + check], cwd=tmp_path, env=environment, check=True)


BLOCKS = "\n".join(re.findall(r"```\n(.*?)```", README, re.DOTALL))


@pytest.mark.parametrize("line", re.findall(r"^(?:\.venv/bin/)?nextframe (.+)$", BLOCKS, re.MULTILINE))
def test_commands_exist(line: str) -> None:
    verb, *words = line.split()
    assert verb in VERBS
    known = {"train": PRESETS, "evaluate": PROTOCOLS, "record": {"maze", "play"}}.get(verb)
    assert known is None or words[0] in known or (verb, words[0][:4]) == ("record", "gym:")


@pytest.mark.parametrize("page", ["README.md", "docs/scaling.md"])
def test_the_processes_shown_can_divide_the_batch_of_their_preset(page: str) -> None:
    shown = re.findall(r"--nproc-per-node (\d+) -m nextframe train ([\w-]+)", (ROOT / page).read_text())
    assert shown
    for processes, name in shown:
        preset = PRESETS[name]
        windows = preset.clip.windows if isinstance(preset, WorldModelConfig) else 1
        assert preset.train.batch // windows % int(processes) == 0, (name, processes)


def test_links_and_paths_exist() -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    (tree,) = re.findall(r"```\nnextframe/\n(.*?)```", README, re.DOTALL)
    for line in tree.splitlines():
        for name in re.findall(r"[\w/]+\.py|[\w/]+/(?= )", line.split("  ")[1] if line.startswith("  ") else line):
            assert (ROOT / "nextframe" / name).exists() or (ROOT / name).exists(), name
