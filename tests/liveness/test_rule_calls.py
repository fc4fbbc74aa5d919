"""Answers of rules that cannot be true do not get through."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from onnxheadprune import Reason, Refusal
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.domain import MASKS, POSITIONS, Domain, Labels
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.rule_calls import ask, ask_about, checked
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.operators import view_of
from tests.graph_text import model_of

GRAPH = """
<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
g (float[2, 4, 6] x, float[N, M] open) => (float[2, 4, 6] y, float[2, 2, 6] a, float[2, 2, 6] b, float o, float n)
<uint8[1, 4, 6] stored, float[6] scale, uint8[6] zero>
{
    y = Relu(x)
    a, b = Split<axis = 1>(x)
    real = DequantizeLinear<axis = 2>(stored, scale, zero)
    read = Mul(real, x)
    o = ReduceSum<keepdims = 0>(read)
    n = LRN<size = 3>(open)
}
"""
RAGGED = Live.over((1, 2), np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]] * 2, dtype=bool))
"""Three columns of each row, but not the same ones: dense, and no product of axes."""
SPARSE = Live.over((1, 2), np.tri(4, 6, dtype=bool))
"""One column of the first row, two of the next: what is left fills no rectangle."""
ROWS = Live.over((1,), np.array([True, False, True, True]))


@pytest.fixture(scope="module")
def view() -> GraphView:
    return view_of(model_of(GRAPH))


def node_of(view: GraphView, op_type: str) -> Node:
    return next(node for node in view.nodes if node.op_type == op_type)


WRONG: dict[str, tuple[Answer, Reason]] = {
    "too short for its axis": (Answer({0: Live.over((1,), np.array([True, False]))}), Reason.INEXPRESSIBLE),
    "on an axis that is not there": (Answer({0: Live.over((3,), ROWS.array)}), Reason.INEXPRESSIBLE),
    "nothing that fills a rectangle": (Answer({0: SPARSE}), Reason.INEXPRESSIBLE),
    "keeps less than was asked for": (
        Answer({0: ROWS}, kept=(Live.over((1,), np.array([True, False, False, True])),)),
        Reason.INEXPRESSIBLE,
    ),
    "keeps what does not fit": (
        Answer({0: ROWS}, kept=(Live.over((1,), np.array([True, True, False])),)),
        Reason.INEXPRESSIBLE,
    ),
    "keeps of another number of outputs": (Answer({0: ROWS}, kept=(FULL, FULL)), Reason.INEXPRESSIBLE),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_a_refusal(name: str, view: GraphView) -> None:
    answer, reason = WRONG[name]
    got = checked(node_of(view, "Relu"), [ROWS], answer, MASKS)
    assert isinstance(got, Refusal)
    assert got.reason is reason
    assert "Relu" in got.node


RIGHT: dict[str, tuple[Mapping[int, Live], tuple[Live, ...] | None]] = {
    "the same": ({0: ROWS}, None),
    "more than was asked for": ({0: FULL}, (FULL,)),
    "of an input that the node lacks": ({0: ROWS, 7: Live.over((9,), ROWS.array)}, None),
    "a dense mask that is no product": ({0: RAGGED}, None),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_gets_through_as_it_is(name: str, view: GraphView) -> None:
    answer = Answer(RIGHT[name][0], kept=RIGHT[name][1])
    assert checked(node_of(view, "Relu"), [ROWS], answer, MASKS) is answer


def test_labels_need_not_be_dense(view: GraphView) -> None:
    relu, labels = node_of(view, "Relu"), Live.over((1, 2), np.where(SPARSE.array, 3, 0))
    answer = ask(relu, [labels], POSITIONS)
    assert isinstance(answer, Answer)
    assert answer.inputs[0] == labels
    assert isinstance(ask(relu, [SPARSE], MASKS), Refusal)


@pytest.mark.parametrize("domain", [MASKS, POSITIONS, Labels(7)])
def test_what_does_not_fit_the_output_is_not_asked(domain: Domain, view: GraphView) -> None:
    got = ask(node_of(view, "Relu"), [Live.over((1,), np.array([True, False, True]))], domain)
    assert isinstance(got, Refusal)
    assert got.reason is Reason.UNKNOWN_SHAPE


def test_an_operator_without_a_law(view: GraphView) -> None:
    got = ask(node_of(view, "LRN"), [FULL], MASKS)
    assert isinstance(got, Refusal)
    assert got.reason is Reason.NO_RULE
    assert "ai.onnx.LRN" in got.sentence


def test_pieces_of_a_split_ask_for_nothing_of_each_other(view: GraphView) -> None:
    piece = view.main.values["b"]
    live = Live.over((1,), np.array([1, 2]))
    answer = ask_about(piece, live, POSITIONS)
    assert isinstance(answer, Answer)
    assert answer.inputs[0].array.tolist() == [0, 0, 1, 2]
