"""Each input and output that means token ids follows, or the cut is refused with its name; no guess is made."""

from __future__ import annotations

import pytest

from onnxheadprune.attention.vocabulary.find import vocabularies
from onnxheadprune.operators import view_of
from tests.vocabulary.graphs import FRONT, STATES, TABLE, graph


@pytest.mark.parametrize(
    ("size", "asked"), [(2, False), (6, False), (7, True), (12, False), (23, True), (24, False)]
)
def test_padding_is_never_as_long_as_the_vocabulary(size: int, asked: bool) -> None:
    """Logits of labels, of which there are far fewer than tokens, stay without a question."""
    model = graph(
        FRONT,
        "out = MatMul(y, head)",
        more=f"{TABLE}, float[6, {size}] head",
        output=f"float[batch, seq, {size}] out",
    )
    (found,) = vocabularies(view_of(model))
    assert [item.name for item in found.open] == (["out"] if asked else [])
    assert found.outputs == (("out",) if size == 12 else ())


def test_hidden_states_as_wide_as_the_vocabulary_is_long_are_no_logits() -> None:
    """The last operator adds a linear layer to the stream, which the layer before reads, too."""
    model = graph(FRONT, more="float[6, 6] table", output=STATES)
    (found,) = vocabularies(view_of(model))
    assert (found.rows, found.outputs, found.open) == (6, (), ())
