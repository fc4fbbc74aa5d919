"""Architectures of the zoo, exported here and now, without some units of each kind: what PyTorch says."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.zoo.conftest import Zoo
from tests.zoo.row import HEADS, Outcome

pytestmark = pytest.mark.samples


def test_pruned_is_silenced(zoo: Zoo, graph: tuple[str, str], pytestconfig: pytest.Config) -> None:
    from tests.zoo.check import FINE, check

    case, variant = graph
    row, is_guard = check(zoo(case), variant), not pytestconfig.getoption("all")
    if row.failed and not is_guard:
        pytest.skip(row.failed)
    assert not row.failed
    heads = row.verdicts[HEADS]
    if not is_guard and (heads.outcome is Outcome.UNEXPECTED or (row.gap and not heads.outcome.is_failure)):
        # Not found, or refused without need: a gap that is reported. What must never be is a wrong model.
        pytest.xfail(str(row))
    assert not row.problems or row.reason, str(row)
    if zoo(case).tolerance(variant) is not None and (zoo(case).tolerance(variant) or 1.0) <= FINE:
        assert heads.torch == heads.equal
    if variant == "ts17":
        assert heads.steps == bool(zoo(case).case.caches)
