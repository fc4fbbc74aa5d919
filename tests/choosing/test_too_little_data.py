"""Too little data is said before the first pass, in the user's unit; what cannot be measured drops out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from onnxheadprune import Calibration, RefusedError, UsageError, prune
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.progress import Note
from onnxheadprune.settings.registry import METHODS, methods_of
from onnxheadprune.settings.units import NEURON
from tests.graphs import toys

BOTH = frozenset({"heads", "neurons"})
INNER, CONTEXT = 20, 16
"""Inputs of the projections of the toy's feed-forward blocks, and of its widest attention."""
LENGTH = 4


def data(count: int, unit: str = "sample") -> Calibration:
    """Samples of 4 tokens, two a batch."""
    feeds = toys.ids(count // 2, 2, LENGTH) if count > 1 else toys.ids(1, 1, LENGTH)
    return replace(calibration_data(feeds, view_of(toys.stack())), unit=unit)


def chosen(count: int, **target: Any) -> Any:
    made = prune(toys.stack(), **target, data=data(count), provider="cpu", validate=False)
    return made.chosen


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_as_many_more_as_is_said_are_enough(count: int) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(count, ratio=0.25)
    more = int(str(caught.value).split("about ")[1].split()[0])
    enough = count + more + (count + more) % 2
    assert (count + more) * LENGTH >= CONTEXT > (count + more - 1) * LENGTH
    assert chosen(enough, ratio=0.25).selection.count


@pytest.mark.each_choice
@pytest.mark.parametrize("units", [{}, {"units": BOTH}], ids=["heads", "both"])
@pytest.mark.parametrize(
    "method",
    [None, *(name for name in methods_of(NEURON.scored_by) if METHODS[name].gives_shares)],
)
def test_a_share_that_cannot_go_without_them_is_refused_before_the_first_pass(
    units: dict[str, Any], method: Any
) -> None:
    told: list[str] = []
    model = toys.stack(heads=8, kv_heads=8)
    # The sites of one kind are not alike: 32 inputs, and 16.
    model = prune(model, heads={1: range(4)}, provider="cpu", validate=False).model
    with pytest.raises(
        RefusedError, match=r"can go .*more sample.* of this length (is|are) needed; .*refit=True"
    ):
        prune(
            model,
            ratio=0.9,
            method=method,
            **units,
            data=data(4),
            provider="cpu",
            progress=lambda what, done, of: told.append(what),
        )
    assert not any(what.startswith(("reading contexts", "measuring what cuts cost")) for what in told)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 30])
def test_named_heads_are_refitted_on_what_there_is(count: int) -> None:
    told: list[str] = []
    found = prune(
        toys.stack(),
        heads={0: [1]},
        refit=True,
        data=data(count, "line"),
        provider="cpu",
        progress=lambda what, done, of: told.append(what),
    ).chosen
    assert found is not None and found.compensation is not None
    limited = {item.node: item.limited for item in found.compensation.refits if item.limited}
    assert bool(limited) == (count < 30)
    notes = [at for at, what in enumerate(told) if isinstance(what, Note)]
    assert len(notes) == bool(limited)
    if limited:
        first = next(at for at, what in enumerate(told) if what.startswith("refitting"))
        assert notes[0] < first and "more line" in told[notes[0]]
    for item in found.compensation.refits:
        assert item.after <= item.before * (1 + 1e-9)
        if item.limited:
            assert item.strength is None or item.strength >= 0.3
            assert "a stronger ridge" in item.limited or "biases alone" in item.limited
    assert [item["limited"] for item in found.to_dict()["compensation"]["refits"] if item["limited"]] == list(
        limited.values()
    )
