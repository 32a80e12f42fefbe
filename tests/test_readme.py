"""What the README shows works."""

import functools
import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro

from nextframe.cli import VERBS, run_command
from nextframe.config import WorldModelConfig
from nextframe.presets import PRESETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = example + "\nassert frame.shape == (64, 64, 3)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_the_examples_of_extending_run(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    assert len(examples) == 4
    check = """
assert [clip.shape for clip in clips] == [(8, 64, 64, 3)] * 2
assert not torch.equal(*clips) and len(footage.episodes()) == 3
assert Path("run/weights.safetensors").exists() and Path("maze_1.mp4").exists()
"""
    subprocess.run([sys.executable, "-c", "\n".join(examples) + check], cwd=tmp_path, check=True)


PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in ROOT.glob("docs/*.md") if page.stem != "experiments")]
"""All but the experiments: there stands what was typed then."""


def commands(page: str) -> set[str]:
    """What a page would have one type, from blocks and from the text."""
    text = (ROOT / page).read_text()
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    blocks = "\n".join(block for language, block in fenced if not language).replace("\\\n", " ")
    inline = "\n".join(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))
    found = re.findall(
        r"^(?:\S*=\S+ )*(?:\.venv/bin/|.* -m )?nextframe ([a-z].+)$", f"{blocks}\n{inline}", re.MULTILINE
    )
    open_ended = re.compile(r"\.\.\.|[\[|]|--help")
    return {line.replace("PROTOCOL", "maze") for line in found if line not in VERBS and not open_ended.search(line)}


def test_commands_are_found() -> None:
    assert len(commands("README.md")) > 15 and all(commands(f"docs/{page}.md") for page in ("footage", "play", "speed"))


class UnderstoodError(Exception):
    """The command line could be read."""


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in sorted(commands(page))])
def test_commands_can_be_typed(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All words of it are known. What has no default and is not named, in the middle of a sentence, may be missing."""
    parse = tyro.cli

    def only_parse(what: Callable[..., Any], args: list[str], **options: Any) -> None:
        given = list(args)
        for name, parameter in inspect.signature(what).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                continue
            if "POSITIONAL" in str(parameter.annotation).upper():
                given = given if given and not given[0].startswith("-") else ["x", *given]
            elif f"--{name}" not in given:
                given += [f"--{name}", "x"]
        stub = functools.wraps(what)(lambda **_: None) if inspect.isfunction(what) else what
        parse(stub, args=given, **options)
        raise UnderstoodError

    monkeypatch.setattr(tyro, "cli", only_parse)
    with pytest.raises(UnderstoodError):
        run_command(shlex.split(line, comments=True))


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
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
