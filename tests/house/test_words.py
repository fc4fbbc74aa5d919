"""The field's words: docstrings are imperative or noun phrases, and expressions to translate do not return."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "onnxheadprune"
RIDDLES = ("How", "Whether", "What", "When", "Where", "Which", "Who", "Whose", "Why")
MOST_RIDDLES = 113
"""Docstrings that begin with one of these words (of 1,021 at first); the number may only fall."""
MOST = {
    r"beyond belief": 0,
    r"\bby itself\b": 8,
    r"\bfor good\b": 5,
    r"\bgoing whole\b": 0,
    r"\bhangs? on\b": 3,
    r"\bhonest": 1,
    r"\b(?:is|are) to go\b": 4,
    r"\bmap with weights\b": 0,
    r"\bnot at hand\b": 0,
    r"\bnumbered anew\b": 0,
    r"\bspelled out\b": 5,
    r"\bcannot be spelled\b": 1,
    r"\btakes the place of\b": 5,
}
"""Expressions in the package, with the number of lines that have them; the numbers may only fall."""


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module, and of the classes and functions in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield text


def riddles(source: str) -> list[str]:
    """Docstrings that begin with a question word: neither imperative, nor a noun phrase."""
    return [text for text in docstrings(source) if re.match(rf"({'|'.join(RIDDLES)})\b", text)]


SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def test_docstrings_are_imperative_or_noun_phrases() -> None:
    assert sum(len(riddles(source)) for source in SOURCES.values()) <= MOST_RIDDLES


@pytest.mark.parametrize("expression", MOST)
def test_expressions_do_not_return(expression: str) -> None:
    lines = [
        line for source in SOURCES.values() for line in source.splitlines() if re.search(expression, line)
    ]
    assert len(lines) <= MOST[expression], lines


def test_the_tests_can_fail() -> None:
    source = '"""What goes."""\ndef f():\n    """Return it."""\n    def g():\n        """Whether it is."""\n'
    assert riddles(source) == ["What goes.", "Whether it is."]
