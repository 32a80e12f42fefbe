"""A file imports lower floors only (docs/tour.md); the side wing imports floor 0 and its own data."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nextframe"
FLOORS = {
    0: {
        "architecture",
        "config",
        "configfile",
        "errors",
        "files",
        "memory",
        "metadata",
        "presets",
        "progress",
        "protocol",
        "shapes",
        "version",
        "workers",
    },
    1: {"cache", "conditions", "flow", "layout", "mask", "clip_starts", "ranks", "rope"},
    2: {"attention", "layers"},
    3: {"autoencoder", "discriminator", "transformer"},
    4: {
        "checkpoint",
        "clips",
        "distributed",
        "inspection",
        "flops",
        "forecast",
        "graphs",
        "hub",
        "journal",
        "learner",
        "objective",
        "optimizer",
        "devices",
        "pieces",
        "published",
        "reconstruction",
        "results",
        "runs",
        "sampler",
        "saver",
        "scoring",
        "session",
        "stopping",
    },
    5: {
        "bench",
        "compare",
        "convert",
        "encode",
        "estimate",
        "evaluate",
        "footprint",
        "held_out",
        "import_footage",
        "imported",
        "import_latents",
        "inspect",
        "outlook",
        "pages",
        "recipes",
        "sample",
        "soundness",
        "train",
    },
    6: {"__init__", "__main__", "cli", "commands", "demo", "doctor", "options", "web"},
}
SIDE_WING = {"data", "metrics", "worlds"}
WITHIN_A_FLOOR = {
    # Importer -> what it may import on its own floor; anything else would let a floor grow into a heap.
    "config": {"architecture", "errors"},
    "presets": {"architecture", "config", "protocol"},
    "protocol": {"architecture", "config"},
    "configfile": {"architecture", "config", "errors", "files"},
    "metadata": {"architecture", "errors", "files"},
    "files": {"errors"},
    "cache": {"layout"},
    "mask": {"layout"},
    "rope": {"layout"},
    "layers": {"attention"},
    "clips": {"objective"},
    "distributed": {"objective"},
    "forecast": {"devices", "runs", "sampler", "session"},
    "journal": {"checkpoint", "objective", "devices", "pieces"},
    "learner": {"distributed", "objective", "optimizer", "devices"},
    "optimizer": {"distributed"},
    "runs": {"checkpoint", "hub", "devices", "session"},
    "graphs": {"sampler"},
    "session": {"graphs", "sampler"},
    "hub": {"published"},
    "pieces": {"checkpoint"},
    "published": {"checkpoint"},
    "reconstruction": {"objective"},
    "import_footage": {"imported"},
    "import_latents": {"encode", "import_footage"},
    "held_out": {"pages"},
    "outlook": {"footprint"},
    "recipes": {"footprint", "held_out", "outlook", "soundness", "train"},
    "inspect": {"pages"},
    "sample": {"pages"},
    "saver": {"checkpoint", "devices", "pieces"},
    "scoring": {"results", "runs"},
    "__main__": {"cli"},
    "cli": {"commands", "options"},
    "bench": {"train"},
    "demo": {"options"},
    "evaluate": {"estimate"},
    "commands": {"demo", "doctor", "options", "web"},
}


def imports_of(path: Path) -> set[str]:
    """First parts of the names of our own modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "nextframe" for alias in node.names), "import names from modules"
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "import by full name"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nextframe":
            parts = node.module.split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found


def floor_of(module: str) -> int:
    if module in SIDE_WING:
        return 1  # above the words, below everything that reads data
    return next(floor for floor, modules in FLOORS.items() if module in modules)


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    for imported in imports_of(path) - {module}:
        if module in SIDE_WING:
            assert imported in FLOORS[0] | {"data"}, f"{module} imports {imported}"
        elif floor_of(imported) == floor_of(module):
            assert imported in WITHIN_A_FLOOR.get(module, set()), f"{module} imports {imported} on its own floor"
        else:
            assert floor_of(imported) < floor_of(module), f"{module} imports {imported} from above"


def test_no_exception_is_left_over() -> None:
    used: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        used.setdefault(module_of(path), set()).update(imports_of(path))
    left = {module: allowed - used[module] for module, allowed in WITHIN_A_FLOOR.items()}
    assert not {module: names for module, names in left.items() if names}


def test_words_know_no_torch() -> None:
    for module in FLOORS[0] - {"shapes"}:
        source = (PACKAGE / f"{module}.py").read_text()
        assert "import torch" not in source and "from torch" not in source, module


def test_files_hold_one_idea() -> None:
    long = {path.name: count for path in PACKAGE.rglob("*.py") if (count := len(path.read_text().splitlines())) > 400}
    assert not long
