"""One cut of a small graph, compared with the masked original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import ModelProto

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import Planning, analyse
from onnxheadprune.edit.apply import apply_plan
from tests.liveness.masks import Array
from tests.liveness.one_node import check_equal, run


def check_cut(model: ModelProto, feed: Mapping[str, Array], gone: Sequence[int], *, gathers: int = 0) -> None:
    """Without some heads of its first site the model equals the masked one; so many edges need a gather."""
    planning = analyse(model, {0: list(gone)}, "the model")
    assert len(planning.plan.edge_gathers) == gathers, [str(gather) for gather in planning.plan.edge_gathers]
    check_exact(planning, model, feed)


def check_exact(planning: Planning, model: ModelProto, feed: Mapping[str, Array]) -> None:
    """A model that is pruned by a plan equals the masked original."""
    want = run(masked_reference(planning.view, planning.touched, planning.heads), feed)
    check_equal(run(apply_plan(planning.plan, model), feed), want)
