"""Targets with data where layers lie in the branches of an If: each is looked at on the samples that run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import RefusedError, prune, validate
from tests.graphs import exits
from tests.recording import recorded

FORMS: dict[str, Callable[[], ModelProto]] = {
    **{name: make for name, make in exits.FORMS.items() if not name.endswith("loop")},
    "skipping": exits.skipping,
}


def _feeds(count: int, least: float, most: float) -> list[dict[str, Any]]:
    """Sequences, and how sure to be about each of them."""
    random = np.random.default_rng(3)
    return [
        {
            "x": random.uniform(-1, 1, (2, 9, exits.WIDTH)).astype(np.float32),
            "sure": np.array(sure, dtype=np.float32),
        }
        for sure in np.linspace(least, most, count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nested", "weights outside"])
def test_units_are_chosen_and_refitted_in_branches(form: str) -> None:
    model = FORMS[form]()
    feeds = _feeds(20, 0.3, 2.0)
    result = prune(model, ratio=0.3, units="heads,neurons", multiple_of={"neurons": 1}, data=feeds)
    assert result.validation is not None and result.validation.passed and result.validation.refitted
    assert result.chosen is not None and not result.chosen.unreached
    inner = {tensor.name for tensor in model.graph.initializer}
    refitted = set(result.validation.refitted)
    assert refitted - inner if form != "weights outside" else refitted <= inner
    assert validate(model, result.model, data=feeds).passed
    assert not recorded(result.model).get("exits")


@pytest.mark.slow
def test_what_no_sample_runs_is_left_alone_and_named() -> None:
    result = prune(exits.nested(), ratio=0.2, data=_feeds(12, 0.3, 0.31))
    assert result.chosen is not None
    assert result.chosen.unreached == (
        "attn.1 (l1.attn)",
        "attn.2 (l2.attn)",
        "ffn.1 (l1.ffn)",
        "ffn.2 (l2.ffn)",
    )
    assert set(result.plan.removed) == {0}
    with pytest.raises(RefusedError, match="only 3 can go"):
        prune(exits.nested(), ratio=0.5, data=_feeds(12, 0.3, 0.31))


def test_what_is_not_measured_on_branches_is_refused_with_the_way_out() -> None:
    model, feeds = exits.nested(), _feeds(12, 0.3, 2.0)
    with pytest.raises(RefusedError, match="make an exit permanent with exit="):
        prune(model, target_speedup=1.1, data=feeds)
    with pytest.raises(RefusedError, match="inside the body of a control-flow operator"):
        prune(exits.loop(), ratio=0.25, data=feeds)


@pytest.mark.slow
def test_layers_in_branches_can_be_trained() -> None:
    feeds = _feeds(40, 0.3, 2.0)
    result = prune(exits.nested(), ratio=0.25, data=feeds, recover=1)
    assert result.chosen is not None and result.chosen.recovery is not None
    assert result.validation is not None and result.validation.passed
