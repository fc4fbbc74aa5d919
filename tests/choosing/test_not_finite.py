"""A site whose contexts are not finite on the data drops out of the choice with its reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import Calibration, UsageError, prune, score
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.operators import view_of
from onnxheadprune.settings.registry import methods_of
from onnxheadprune.settings.units import HEAD
from tests.graphs import toys

BOTH = frozenset({"heads", "neurons"})
TOKEN = 7
"""The layer behind overflows where a sample has it."""
REASON = "the model computes NaN or infinite values"


def overflowing() -> ModelProto:
    """Two layers, of which the second one's attention overflows on one token, and with it all behind."""
    model = toys.stack()

    def changed(name: str, change: Any) -> None:
        array = np.array(toys.get_initializer(model, name))
        change(array)
        toys.set_initializer(model, name, array)

    def column(array: Any) -> None:
        array[..., 0] = 0

    def row(number: float) -> Any:
        def change(array: Any) -> None:
            array[0] = number

        return change

    changed("embed.weight", column)
    for name in ("attn.out.weight", "attn.out.bias", "ffn.down.weight"):
        changed(f"layer0.{name}", column)
    for name in (
        "layer0.attn.q",
        "layer0.attn.k",
        "layer0.attn.v",
        "layer0.ffn.up",
        "layer1.attn.q",
        "layer1.attn.k",
    ):
        changed(f"{name}.weight", row(0))
    changed("layer1.attn.v.weight", row(1e20))

    def marked(array: Any) -> None:
        array[TOKEN, 0] = 1e20

    changed("embed.weight", marked)
    return model


def data(*, bad: int = 1) -> Calibration:
    """Samples without the token, and some with it."""
    feeds = toys.ids(12, 2, 6)
    for feed in feeds:
        feed["input_ids"][feed["input_ids"] == TOKEN] = TOKEN + 1
    for feed in feeds[3 : 3 + bad]:
        feed["input_ids"][0, 2] = TOKEN
    return replace(calibration_data(feeds, view_of(toys.stack())), unit="line")


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [{"ratio": 0.25}, {"max_drift": 9.0}, {"ratio": 0.25, "units": BOTH}],
    ids=("share", "drift", "share of both"),
)
@pytest.mark.parametrize("method", [None, *methods_of(HEAD.scored_by)])
def test_the_site_drops_out_with_its_reason(way: dict[str, Any], method: Any) -> None:
    model = overflowing()
    # In several batches: a limit on drift holds some out, and what the choice has not seen is finite.
    made = prune(model, **way, method=method, data=data(bad=6), provider="cpu", validate=False)
    assert made.chosen is not None
    selection = made.chosen.selection
    assert selection.count and 1 not in selection.heads
    left = {label: why for label, why in selection.left_out.items() if REASON in why}
    assert "layer1.attn" in str(left) or "site 1" in str(left)
    assert len(left) == (2 if "units" in way else 1)
    assert made.chosen.to_dict()["selection"]["left_out"] == dict(selection.left_out)


def test_where_no_site_is_finite_the_reason_is_the_answer() -> None:
    model = overflowing()
    toys.set_initializer(model, "layer0.attn.v.weight", np.full((12, 16), 1e38, np.float32))
    with pytest.raises(UsageError, match=REASON):
        prune(model, ratio=0.25, data=data(), provider="cpu")


def test_scores_are_of_all_sites_or_none() -> None:
    with pytest.raises(UsageError, match=REASON):
        score(overflowing(), data=data(), provider="cpu")
