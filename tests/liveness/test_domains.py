"""Masks and labels: what each makes of a demand, of two of them, and of a law that refuses."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune.liveness.domain import MASKS, POSITIONS, Domain, Labels
from onnxheadprune.liveness.live import DEAD, FULL, Live
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators import view_of
from tests.graph_text import model_of

HEADS = Labels(0b111)
HALF = Live.over((0,), np.array([True, False]))
DIAGONAL = Live.over((0, 1), np.array([[True, False], [True, True]]))


def bits(*sets: int) -> Live:
    return Live.over((0,), np.array(sets, dtype=object))


def test_masks_say_nothing_if_everything_is_needed() -> None:
    assert MASKS.says_nothing(FULL)
    assert not MASKS.says_nothing(HALF)
    assert not MASKS.says_nothing(DEAD)


def test_labels_say_nothing_if_there_are_none_or_all() -> None:
    assert HEADS.says_nothing(FULL)
    assert HEADS.says_nothing(bits(0b111))
    assert not HEADS.says_nothing(bits(0b100)), "a value that one head alone reads"
    assert not HEADS.says_nothing(DEAD)
    assert not POSITIONS.says_nothing(Live.over((), np.array(1)))


def test_union() -> None:
    assert MASKS.united(HALF, Live.over((0,), np.array([False, True]))) == FULL
    assert HEADS.united(bits(0b001, 0), bits(0b010, 0b100)) == bits(0b011, 0b100)


@pytest.mark.parametrize(("mask", "both"), [(FULL, (0b111, 0b111)), (HALF, (0b111, 0b010)), (DEAD, (1, 2))])
def test_a_mask_has_all_labels_where_it_is_live(mask: Live, both: tuple[int, int]) -> None:
    assert HEADS.united(bits(1, 2), mask) == bits(*both)
    assert HEADS.united(mask, bits(1, 2)) == bits(*both)


def test_what_a_value_keeps_of_a_mask_is_a_tensor() -> None:
    assert MASKS.narrowed(DIAGONAL) == FULL
    assert MASKS.narrowed(bits(0b1, 0)) == HALF
    assert not MASKS.can_be_kept(DIAGONAL)
    assert MASKS.is_ragged(DIAGONAL)


def test_labels_may_have_any_form() -> None:
    labels = Live.over((0, 1), DIAGONAL.array.astype(int))
    assert POSITIONS.narrowed(labels) is labels
    assert POSITIONS.can_be_kept(labels)
    assert not POSITIONS.is_ragged(labels)


def test_where_a_law_refuses() -> None:
    assert MASKS.refused(HALF) is FULL
    assert HEADS.refused(bits(1, 2)) == bits(1, 2)


GRAPH = """
<ir_version: 10, opset_import: ["": 17]>
g (float[2, 3, 4] x) => (float[2, 3, 2] y, float[2, 3, 4] other)
<float[4, 4] above, float[4, 2] below>
{
    projected = MatMul(x, above)
    other = Relu(projected)
    y = MatMul(projected, below)
}
"""


def swept(domain: Domain, live: Live) -> tuple[Sweep, Node]:
    view = view_of(model_of(GRAPH))
    last = view.nodes[-1]
    return sweep([Seed(last, 0, live, "here")], domain=domain), view.nodes[0]


def test_other_readers_count_for_masks_alone() -> None:
    columns = np.array([True, False, True, False])
    masks, first = swept(MASKS, Live.over((2,), columns))
    assert masks.kept[first.out] == FULL, "the Relu reads all of it"
    labels, first = swept(Labels(3), Live.over((2,), np.where(columns, 1, 2).astype(object)))
    assert labels.kept[first.out].array.tolist() == [1, 2, 1, 2]


def test_labels_end_at_what_weights_mix() -> None:
    """A channel of the projection is the head's own, and so is its column of the weight; the input is everybody's."""
    labels, first = swept(Labels(3), Live.over((2,), np.array([1, 1, 2, 2], dtype=object)))
    reached = {value.name: live.array.tolist() for value, live in labels.kept.items()}
    assert reached["above"] == [1, 1, 2, 2]
    assert "x" not in reached
    one, first = swept(Labels(3), Live((), np.array(1, dtype=object)))
    assert one.kept[first.out].array == 1
    assert "x" not in {value.name for value in one.kept}
