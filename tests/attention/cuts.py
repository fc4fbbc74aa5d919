"""One cut of a small graph, compared with the masked original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import ModelProto

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from tests.liveness.masks import Array
from tests.liveness.one_node import run


def check_cut(model: ModelProto, feed: Mapping[str, Array], gone: Sequence[int], *, gathers: int = 0) -> None:
    """Without some heads of its first site the model equals the masked one; so many edges need a gather."""
    planning = analyse(model, {0: list(gone)}, "the model")
    assert len(planning.plan.edge_gathers) == gathers, [str(gather) for gather in planning.plan.edge_gathers]
    want = run(masked_reference(planning.view, planning.sites, planning.heads), dict(feed))
    got = run(apply_plan(planning.plan, model), dict(feed))
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=1e-5)
