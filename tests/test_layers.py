"""Imports run one way, and one module alone knows onnxruntime."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "onnxheadprune"
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "refusal", "edits", "documents", "foreign"),
    ("graph", "node_order", "model_io", "model_save", "soundness", "storage", "tensors"),
    ("liveness",),
    ("plan",),
    ("sites", "heads", "pruning"),
    ("surgery", "functions", "masking", "fusion"),
    ("runtime", "provider_advice", "providers", "feeds", "tolerances"),
    ("calibration",),
    ("scoring",),
    ("selection", "compensation"),
    ("validation", "benchmarking", "doctor"),
    ("fusing", "wishes", "speeding", "choosing", "sweeping", "api", "batch", "batch_worker"),
    ("report",),
    ("cli",),
)
"""A module may import from its own layer and from those before it."""
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
TOP = ("__init__", "__main__")
FORBIDDEN = ("torch", "transformers", "tests", "sample_models", "benchmarks")

FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            if module == "onnxheadprune":
                yield from (f"onnxheadprune.{alias.name}" for alias in node.names)
            else:
                yield module


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_module_has_a_layer() -> None:
    assert {module_of(path) for path in FILES} - set(TOP) <= set(LEVEL)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    own = module_of(path)
    for name in imported(path):
        root, _, rest = name.partition(".")
        assert root not in FORBIDDEN
        if root == "onnxruntime":
            assert own == "runtime", f"{path} imports onnxruntime"
        if root == "onnxheadprune" and own not in TOP and rest not in ("", "__version__"):
            other = rest.split(".")[0]
            assert LEVEL[other] <= LEVEL[own], f"{own} imports {other}, which is above it"


def test_the_test_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from onnxheadprune.cli import main\n    import onnxruntime.capi\n")
    assert list(imported(wrong)) == ["onnxheadprune.cli", "onnxruntime.capi"]
    assert LEVEL["cli"] > LEVEL["graph"]
