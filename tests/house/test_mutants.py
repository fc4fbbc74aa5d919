"""Mutants of a package of three functions: killed, surviving, unreached."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = """
LIMIT = 1

def old(age):
    return age >= 18

def counted(names):
    names = [name for name in names if name]
    while len(names) > 3:
        names = names[:-1]
    return names

def never(flag):
    if flag:
        raise ValueError(f"{1 + 1}")
    return not flag
"""
TESTS = {
    "test_old.py": """
from law.ages import old

def test_old():
    assert old(18) and not old(17)
""",
    "test_counted.py": """
from law.ages import counted, old

def test_counted():
    assert counted(["a", "", "b", "c", "d", "e"]) == ["a", "b", "c"]

def test_young():
    assert not old(3)

def test_red():
    assert not counted(["a"])
""",
}
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def mutants(tmp_path: Path) -> Run:
    """Runs the tool in a folder with a package and its tests."""
    (tmp_path / "law").mkdir()
    for name, text in {"law/__init__.py": "", "law/ages.py": PACKAGE, **TESTS}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, str(ROOT / "tools" / "mutants.py"), *words]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    return run


def test_messages_defaults_and_what_runs_at_import_stay() -> None:
    """And a tree without a chosen mutant is as it was."""
    schemata = runpy.run_path(str(ROOT / "tools" / "mutants.py"))["Schemata"]
    every = schemata(0, lambda number: True)
    every.visit(ast.parse(PACKAGE))
    assert [change.partition(": ")[2] for change in every.changes.values()] == [
        *("age >= 18 -> age > 18", "age >= 18 -> age < 18", "18 -> 19", "18 -> 17"),
        *("name -> True", "len(names) > 3 -> len(names) >= 3", "len(names) > 3 -> len(names) <= 3"),
        *("3 -> 4", "3 -> 2", "1 -> 2", "1 -> 0", "flag -> False", "not flag -> flag"),
    ]
    tree = ast.parse(PACKAGE)
    assert ast.dump(schemata(0, lambda number: False).visit(ast.parse(PACKAGE))) == ast.dump(tree)


@pytest.mark.slow
def test_what_tests_kill(mutants: Run) -> None:
    """Surviving and unreached mutants are listed; tests that fail without a mutant are not run."""
    first = mutants("law", "--matrix", "kills")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "fails without a mutant, left out: test_counted.py::test_red" in first.stdout
    surviving, _, unreached = first.stdout.partition("surviving:\n")[2].partition("unreached:\n")
    assert surviving == "  law/ages.py:10:25: 1 -> 2 (1 tests)\n"
    assert "law/ages.py:14:8: flag -> False" in unreached

    again = mutants("law", "--matrix", "kills")
    assert "mutants run" in first.stdout and "mutants run" not in again.stdout
    assert again.stdout.partition("surviving:")[2].startswith(first.stdout.partition("surviving:")[2][:400])

    without = mutants("--matrix", "kills", "--without", "test_old.py")
    assert without.returncode == 1
    assert "law/ages.py:5:12: age >= 18 -> age > 18: only test_old.py::test_old" in without.stdout
    assert mutants("--matrix", "kills", "--without", "test_none.py").returncode == 0
