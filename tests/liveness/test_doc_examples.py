"""The examples in docstrings of the axis algebra and of the laws say what the code does."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from types import ModuleType

import pytest

from onnxheadprune import liveness, operators

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
