"""Tests check the definitions of their room; of others they know what users have, the fronts and the doors below."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.house.test_layers import MODULES, ROOMS, own_imports
from tests.sources import nodes

TESTS = Path(__file__).parents[1]
CHECKED = {
    "conftest.py": ("benchmarking", "deploying.batch", "reporting.progress", "workflow.choice.latency"),
    "clients": ("integrations",),
    "deploying": ("api", "deploying", "integrations"),
    "files": ("model",),
    "gradients": ("choosing.gradients",),
    "house": ROOMS,
    "liveness": ("liveness", "operators"),
    "options": ("api.keywords", "cli", "deploying.jobs.keys", "integrations.cutting", "settings"),
    "reporting": ("display", "reporting"),
    "vocabulary": ("attention.vocabulary", "deploying.folders.vocabulary", "workflow.vocabulary"),
    "zoo": ("attention", "choosing.gradients"),
}
"""The rooms, or parts of them, whose definitions a folder of tests checks, where that is not the room of its name."""
DOORS = (
    "api.functions",
    "attention.masking",
    "attention.planning",
    "attention.sites.find",
    "attention.sites.site",
    "benchmarking.flops",
    "benchmarking.gate",
    "choosing.activations.contexts",
    "choosing.compensation.record",
    "cli.outcome",
    "cli.presenting",
    "cli.program",
    "cli.values",
    "data.beside",
    "data.calibration",
    "data.text",
    "deploying.batch",
    "deploying.jobs.result",
    "deploying.ledger",
    "display.facts",
    "edit.apply",
    "edit.edits",
    "edit.records",
    "fusion.fuse",
    "liveness.live",
    "liveness.sweep",
    "model.graph.dims",
    "model.graph.main_output",
    "model.graph.operator",
    "model.graph.view",
    "model.load",
    "model.one_line",
    "model.storage.tensors",
    "model.tensors",
    "model.typed_json",
    "reporting.page",
    "reporting.pictures",
    "reporting.pictures.draw",
    "reporting.progress",
    "runtime.feeds.data",
    "runtime.feeds.generate",
    "runtime.feeds.inputs",
    "runtime.memory_limits",
    "runtime.progress",
    "runtime.session",
    "runtime.tolerances",
    "settings.calls",
    "settings.cutting",
    "settings.inputs",
    "settings.registry",
    "settings.setting",
    "settings.units",
    "settings.words",
    "settings.writing",
    "training.checkpoint",
    "training.result",
    "validation.figures",
    "validation.headline",
    "workflow.validate",
)
"""Modules that tests of other rooms import: what they write graphs with, run models with and read results by."""
DOTTED = re.compile(r"onnxheadprune(\.\w+)+")


def _named(path: Path) -> Iterator[str]:
    """Modules below the package that a file imports, and those whose names it writes as text, as a patch does."""
    yield from own_imports(path)
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and DOTTED.fullmatch(node.value):
            module = node.value.removeprefix("onnxheadprune.")
            while module and module not in MODULES:
                module = module.rpartition(".")[0]
            yield module


def _used() -> dict[str, list[str]]:
    """The modules behind the fronts of rooms that tests of other rooms name, and the files of these tests."""
    used: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("*.py")):
        file = path.relative_to(TESTS)
        rooms = CHECKED.get(file.parts[0], file.parts[:1])
        for module in sorted({*_named(path)}):
            if "." in module and not any(f"{module}.".startswith(f"{room}.") for room in rooms):
                used[module].append(str(file))
    return used


def test_tests_of_other_rooms_use_doors() -> None:
    assert {module: files for module, files in _used().items() if module not in DOORS} == {}


def test_every_door_is_used() -> None:
    assert {*DOORS} <= {*_used()}
