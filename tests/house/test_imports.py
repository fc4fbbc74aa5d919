"""No test module imports another: fixtures are in a `conftest`, helpers in modules of their own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
SUSPECT = re.compile(r"^\s*from\s+\.|^\s*(from|import)\s[^#\n(]*(\([^)]*)?\btest_", re.MULTILINE)
"""Files without such a line need not be parsed."""


def imported_tests(source: str) -> Iterator[str]:
    """Names of the test modules that a source imports, wherever in it and whichever way."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module or ''}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            root, *parts = name.lstrip(".").split(".")
            if root == "tests" and (
                module := next((part for part in parts if part.startswith("test_")), None)
            ):
                yield module
            elif isinstance(node, ast.ImportFrom) and node.level:
                yield name


def test_no_file_imports_a_test_module() -> None:
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
    found = {path: list(imported_tests(source)) for path, source in sources.items() if SUSPECT.search(source)}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "from tests.cli.test_cli import x",
        "from tests import test_cli",
        "import tests.edit.test_plan as plan",
        "def f():\n    from tests.edit import test_plan",
        "from tests.edit import (\n    cuts,\n    test_plan,\n)",
        "from . import helper",
    ],
)
def test_an_import_is_seen(source: str) -> None:
    assert SUSPECT.search(source) and len(list(imported_tests(source))) == 1


def test_helpers_are_allowed() -> None:
    assert not list(
        imported_tests("from tests import toys\nfrom tests.graphs.blueprint import PLAIN\nimport pytest")
    )
