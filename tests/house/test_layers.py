"""Rooms import one way, from the file up to the command line, and one of them alone knows onnxruntime."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.sources import FILES, PACKAGE, nodes

ROOMS = (
    "errors",
    "settings",
    "model",
    "display",
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
    "api",
    "cli",
    "integrations",
)
"""A room may import from itself and from those before it."""
LEVEL = {name: level for level, name in enumerate(ROOMS)}
TOP = ("__init__", "__main__")
GUESTS = ("olive",)
"""What only `integrations` may import: nothing needs it, and nothing in the package imports that room."""
FORBIDDEN = ("torch", "transformers", "tests", "sample_models", "benchmarks")


def module_of(path: Path) -> str:
    """The name of a file below the package, as in "model.graph.view"; an `__init__` has its folder's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def _imported(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}"
                yield whole if whole.removeprefix("onnxheadprune.") in MODULES else module


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Full names of the modules that a file imports, wherever in it."""
    return tuple(_imported(path))


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


def wrong_imports(path: Path, own: str) -> Iterator[str]:
    """Reasons why a file of a room may not import what it does."""
    for name in imported(path):
        root = name.partition(".")[0]
        if root in FORBIDDEN:
            yield f"{root} is forbidden"
        if root == "onnxruntime" and own != "runtime":
            yield f"{name} is for runtime alone"
        if root in GUESTS and own != "integrations":
            yield f"{name} is for integrations alone"
    if own not in TOP:
        for name in own_imports(path):
            other = name.split(".")[0]
            if LEVEL[other] > LEVEL[own]:
                yield f"{other} is above {own}"


def test_imports_run_one_way() -> None:
    wrong = {module: list(wrong_imports(path, module.split(".")[0])) for module, path in MODULES.items()}
    assert {module: reasons for module, reasons in wrong.items() if reasons} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_circle_within_a_room(folder: str) -> None:
    assert circle(neighbours(folder)) == []
