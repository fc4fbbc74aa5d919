"""Rooms import one way, from the file up to the command line, and one of them alone knows onnxruntime."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "onnxheadprune"
ROOMS = (
    "errors",
    "settings",
    "model",
    "edit",
    "liveness",
    "operators",
    "runtime",
    "attention",
    "fusion",
    "benchmarking",
    "data",
    "choosing",
    "validation",
    "training",
    "workflow",
    "deploying",
    "reporting",
    "cli",
    "integrations",
)
"""A room may import from itself and from those before it."""
LEVEL = {name: level for level, name in enumerate(ROOMS)}
TOP = ("__init__", "__main__")
GUESTS = ("olive",)
"""What only `integrations` may import: nothing needs it, and nothing in the package imports that room."""
FORBIDDEN = ("torch", "transformers", "tests", "sample_models", "benchmarks")
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """The name of a file below the package, as in "model.graph.view"; an `__init__` has its folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield whole if whole.removeprefix("onnxheadprune.") in MODULES else module


def own_imports(path: Path) -> Iterator[str]:
    """Names below the package of the modules of it that a file imports."""
    for name in imported(path):
        root, _, rest = name.partition(".")
        if root == "onnxheadprune" and rest not in ("", "__version__"):
            yield rest


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Names along a circle of a graph of imports, nothing if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def neighbours(room: str) -> dict[str, set[str]]:
    """What lies directly in a room or a folder of it, and what of that each one imports."""
    depth = len(room.split("."))
    found: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        if not module.startswith(f"{room}."):
            continue
        own = ".".join(module.split(".")[: depth + 1])
        for other in own_imports(path):
            target = ".".join(other.split(".")[: depth + 1])
            if other.startswith(f"{room}.") and target != own:
                found[own].add(target)
    return found


FOLDERS = sorted(
    {".".join(module.split(".")[:depth]) for module in MODULES for depth in range(1, module.count(".") + 1)}
)


def test_every_module_has_a_room() -> None:
    assert {module.split(".")[0] for module in MODULES} - set(TOP) == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    own = module_of(path).split(".")[0]
    for name in imported(path):
        root = name.partition(".")[0]
        assert root not in FORBIDDEN
        if root == "onnxruntime":
            assert own == "runtime", f"{path} imports onnxruntime"
        if root in GUESTS:
            assert own == "integrations", f"{path} imports {root}"
    if own not in TOP:
        for name in own_imports(path):
            other = name.split(".")[0]
            assert LEVEL[other] <= LEVEL[own], f"{own} imports {other}, which is above it"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_circle_within_a_room(folder: str) -> None:
    assert circle(neighbours(folder)) == []


def test_the_tests_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from onnxheadprune.cli import main\n    import onnxruntime.capi\n")
    assert list(imported(wrong)) == ["onnxheadprune.cli", "onnxruntime.capi"]
    assert LEVEL["cli"] > LEVEL["model"]
    assert circle({"storage": {"load"}, "load": {"storage"}}) != []
