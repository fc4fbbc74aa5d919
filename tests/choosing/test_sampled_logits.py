"""The layer of the vocabulary, computed at a sample of positions: each as in a run of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune.choosing.activations.chain import Tail
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider
from tests.graph_text import model_of

WORDS = 2000
HEADS = {
    "product": "logits = MatMul(hidden, head)",
    "bias": "p = MatMul(hidden, head) logits = Add(p, bias)",
    "capped": "p = MatMul(hidden, head) q = Div(p, cap) r = Tanh(q) logits = Mul(r, cap)",
}


def view(head: str, words: int = WORDS) -> GraphView:
    """Ids to logits."""
    return view_of(
        model_of(
            f"""<ir_version: 9, opset_import: ["": 17]>
            decoder (int64[b, s] input_ids, int64[b, s] attention_mask) => (float[b, s, {words}] logits)
            <float[50, 4] table, float[4, {words}] head, float[{words}] bias, float cap> {{
                mask = Cast<to: int = 1>(attention_mask)
                axis = Constant<value_ints: ints = [-1]>()
                wide = Unsqueeze(mask, axis)
                x = Gather(table, input_ids)
                hidden = Mul(x, wide)
                {head}
            }}""",
            given={"cap": np.float32(2)},
        )
    )


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_sample_of_positions_is_as_in_the_whole(head: str) -> None:
    made = view(head)
    tail = Tail.of(made.main.values["logits"])
    assert tail is not None and tail.hidden.name == "hidden" and tail.width == WORDS
    parts = Parts(made, Provider(CPU, "test"), 1, ())
    hidden = np.random.default_rng(1).standard_normal((2, 30, 4)).astype(np.float32)
    session = tail.session(parts)
    whole = tail.run(session, hidden, None, "test")["logits"]
    places = np.array([3, 31, 59])
    assert np.allclose(
        tail.run(session, hidden, places, "test")["logits"][0], whole.reshape(60, WORDS)[places]
    )


@pytest.mark.parametrize(
    "head",
    [
        "logits = Softmax(hidden)",
        "p = MatMul(hidden, head) m = ReduceMean(p) logits = Sub(p, m)",
        "p = MatMul(hidden, head) logits = Add(p, p)",
    ],
)
def test_what_depends_on_other_positions_or_values_is_no_last_layer(head: str) -> None:
    assert Tail.of(view(head).main.values["logits"]) is None
