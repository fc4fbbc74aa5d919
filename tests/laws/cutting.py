"""Cuts of rows by the public API, and their comparison with the builder's zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

from onnxheadprune import PrunePlan, Sites, apply_plan
from onnxheadprune.attention.planning import planned
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.model.load import open_structure
from tests.graphs.net import Cut
from tests.graphs.table import Row, table
from tests.liveness.masks import Array
from tests.liveness.one_node import running

ROWS = table()
LEGAL = [row for row in ROWS.values() if row.legal]
"""The rows with a legal cut."""


def one_of(count: int, rows: Sequence[Row]) -> pytest.MarkDecorator:
    """Parametrize with rows, of which a plain run takes one in so many: neighbours in the table are alike."""
    marks = [[pytest.mark.slow] if number % count else [] for number in range(len(rows))]
    params = [pytest.param(row, marks=mark) for row, mark in zip(rows, marks, strict=True)]
    return pytest.mark.parametrize("row", params, ids=str)


def cuts(row: Row, config: pytest.Config) -> Sequence[tuple[int, Cut]]:
    """The legal cuts of a row; in a plain run the first one of three rows in four."""
    every = list(enumerate(row.legal))
    return every if config.getoption("all") or LEGAL.index(row) % 4 == 0 else every[:1]


def spec(cut: Cut) -> dict[str, Any]:
    """A cut as a spec of heads."""
    return {key: list(units) for key, units in cut.items()}


@cache
def analysis(name: str) -> Analysis:
    """The analysis of a row, which its plans share."""
    return analysis_of(open_structure(ROWS[name].model))


def found(name: str) -> Sites:
    """The sites of a row."""
    return analysis(name).sites


@cache
def plan(name: str, number: int) -> PrunePlan:
    """The plan of a row's legal cut."""
    return planned(analysis(name), spec(ROWS[name].legal[number])).plan


@cache
def pruned(name: str, number: int = 0) -> ModelProto:
    """A row after one of its legal cuts. Nobody changes it."""
    return apply_plan(plan(name, number), ROWS[name].model)


def copied(model: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    return made


@cache
def samples(name: str) -> list[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """Inputs of a row and what it makes of them; dimensions may depend on each other in ways that no name says."""
    row, made = ROWS[name], []
    original = running(row.model)
    for feed in row.graph.feeds():
        try:
            made.append((feed, original(feed)))
        except (Fail, InvalidArgument, RuntimeException):
            assert made, "the row does not run"
    return made


def feeds(name: str) -> list[Mapping[str, Array]]:
    """Inputs of a row."""
    return [feed for feed, _ in samples(name)]


def assert_equal(got: Mapping[str, Array], want: Mapping[str, Array], atol: float = 2e-5) -> None:
    """The same outputs, of one type and shape, up to rounding."""
    assert list(got) == list(want)
    for name, array in want.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_allclose(
            got[name], array, atol=atol * max(1.0, float(np.abs(array).max(initial=0)))
        )


def check(row: Row, model: ModelProto, cut: Cut) -> bool:
    """Compare a pruned model with the zeros of its builder; return whether these change something."""
    masked, cut_model, shows = row.graph.outputs(cut), running(model), False
    for feed, whole in samples(row.name):
        want = masked(feed)
        assert_equal(cut_model(row.graph.narrowed(feed, cut)), want)
        narrowed = row.graph.narrowed(whole, cut)
        shows |= any(not np.allclose(narrowed[name], array, atol=1e-6) for name, array in want.items())
    return shows
