"""The zoo as a fixture. Torch is imported by the tests that need it, not by this file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.zoo.store import Store

PLACE = "ONNXHEADPRUNE_ZOO"


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The zoo in the folder that ONNXHEADPRUNE_ZOO names, else in pytest's own."""
    pytest.importorskip("torch")
    base = tmp_path_factory.getbasetemp()
    # Workers have folders of their own in that of the run.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests.zoo.store import Store

        found = Store(Path(os.environ.get(PLACE) or shared / "zoo"), shared / "zoo-rows")
        assert found.cases
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per folder, where the samples were asked for: listing them imports torch."""
    if "graph" not in metafunc.fixturenames:
        return
    graphs: list[tuple[str, str]] = []
    if metafunc.config.getoption("markexpr") == "samples":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tests.zoo.families import all_cases
            from tests.zoo.selection import guarding, selected

            every = metafunc.config.getoption("all")
            graphs = selected(all_cases()) if every else guarding()
    metafunc.parametrize("graph", graphs, ids=[f"{case}.{variant}" for case, variant in graphs])
