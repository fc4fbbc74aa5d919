"""The source files of the package as syntax trees: parsed once, however many laws read them."""

from __future__ import annotations

import ast
import gc
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "onnxheadprune"
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    parsed = ast.parse(path.read_text(encoding="utf-8"))
    # They stay to the end; the collector, which every benchmark calls, need not visit them.
    gc.freeze()
    return parsed


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's tree."""
    return tuple(ast.walk(tree(path)))
