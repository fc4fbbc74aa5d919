"""Cuts are measured on samples that their trial refits have not seen, with much data and with little."""

from __future__ import annotations

from typing import Any

import pytest

from onnxheadprune.choosing.curves import folds_of
from onnxheadprune.runtime import CPU, Provider
from tests.graphs import toys


def samples(feeds: Any) -> set[bytes]:
    return {row.tobytes() for feed in feeds for row in feed["input_ids"]}


@pytest.mark.parametrize("feeds", [1, 2, 9, 40, 120])
def test_no_cut_is_judged_by_what_its_refit_has_learned_from(feeds: int) -> None:
    """Halves judge each other; of much data a part judges."""
    view, sites, data = toys.parts(toys.stack(), toys.ids(feeds))
    folds = folds_of(view, sites.sites, data, Provider(CPU, "test"))
    assert len(folds) == (1 if feeds >= 120 else 2)
    for fold in folds:
        learned, judged = samples(fold.learned.feeds), samples(fold.judged.feeds)
        assert learned and judged and not learned & judged and learned | judged <= samples(data.feeds)
