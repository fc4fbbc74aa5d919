"""The examples in docstrings of the axis algebra and of the laws say what the code does."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

from onnxheadprune import liveness, operators
from onnxheadprune.liveness import axes

MODULES = [
    importlib.import_module(f"{package.__name__}.{found.name}")
    for package in (liveness, operators)
    for found in pkgutil.iter_modules(package.__path__)
]


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [found for found in doctest.DocTestFinder().find(module) if found.examples]


@pytest.mark.parametrize(
    "module", [item for item in MODULES if examples(item)], ids=lambda item: item.__name__
)
def test_examples_hold(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def test_every_relation_of_axes_has_an_example() -> None:
    shown = {found.name for found in examples(axes)}
    functions = [item for _, item in inspect.getmembers(axes, inspect.isfunction)]
    own = {f"{axes.__name__}.{item.__name__}" for item in functions if item.__module__ == axes.__name__}
    assert own <= shown


def test_a_wrong_example_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ModuleType("wrong")
    wrong.__doc__ = ">>> 1 + 1\n3\n"
    assert doctest.testmod(wrong).failed == 1
    assert "Expected:" in capsys.readouterr().out
