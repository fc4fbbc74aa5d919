"""An input belongs to a vocabulary only if it indexes its table: tables of equal length mean nothing.

The oracle is the original itself, with the ids of the named inputs translated and their logits picked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import ModelProto

import onnxheadprune as ohp
from onnxheadprune import RefusedError, UsageError
from onnxheadprune.attention.vocabulary.find import vocabularies
from onnxheadprune.operators import view_of
from tests.vocabulary.graphs import KEPT, STATES, TABLE, TOKENS, graph, run

FIRST = "input_ids"
SECONDS = ("tag_ids", "decoder_input_ids", "token_type_ids", "position_ids")
"""Names of an input that indexes another table; of the last two nobody thinks that they are tokens."""


def _model(second: str, rows: int, heads: Sequence[str], end: str = "out = Identity(y)") -> ModelProto:
    """Two tables, summed up before a block; each may have logits of its own."""
    sizes, tables, lines, outputs = (TOKENS, rows), ("table", "other"), [end], [STATES]
    more = [TABLE, f"float[{rows}, 6] other", *["int64[1] two = {2}"] * ("two" in end)]
    for head, size, table in zip(heads, sizes, tables, strict=True):
        if head != "none":
            outputs.append(f"float[batch, seq, {size}] of_{table}")
            turned = f"{table}_turned = Transpose<perm = [1, 0]>({table})\n" if head == "tied" else ""
            lines.append(f"{turned}of_{table} = MatMul(y, {table}_turned)")
            more += [] if head == "tied" else [f"float[6, {size}] {table}_turned"]
    return graph(
        f"words = Gather(table, {FIRST})\nothers = Gather(other, {second})\nx = Add(words, others)",
        "\n".join(lines),
        more=", ".join(more),
        inputs=f"int64[batch, seq] {FIRST}, int64[batch, seq] {second}",
        output=", ".join(outputs),
    )


def _check(model: ModelProto, rows: dict[str, int], named: Sequence[str], logits: Sequence[str]) -> None:
    """Compare a cut of the tables that named inputs index with the original."""
    made = ohp.prune(
        model,
        vocab=KEPT.tolist(),
        token_ids=",".join(named),
        token_logits=",".join(logits) or "none",
        provider="cpu",
    )
    assert made.plan.vocabulary is not None and made.plan.vocabulary.inputs == tuple(named)
    random = np.random.default_rng(0)
    new = {
        name: random.integers(0, len(KEPT) if name in named else size, (2, 5)) for name, size in rows.items()
    }
    old = {name: KEPT[ids] if name in named else ids for name, ids in new.items()}
    outputs = [info.name for info in model.graph.output]
    for name, got, want in zip(outputs, run(made.model, new), run(model, old), strict=True):
        np.testing.assert_allclose(got, want[..., KEPT] if name in logits else want, atol=1e-5)


@pytest.mark.parametrize("second", SECONDS[:2])
def test_logits_are_those_of_the_table_that_they_read(second: str) -> None:
    """Of two layers of their own that are as wide as two tables are long the model does not show whose they are."""
    tied = {item.inputs: item for item in vocabularies(view_of(_model(second, TOKENS, ("tied", "tied"))))}
    assert {names: item.outputs for names, item in tied.items()} == {
        (FIRST,): ("of_table",),
        (second,): ("of_other",),
    }
    assert not any(item.open for item in tied.values())
    own = vocabularies(view_of(_model(second, TOKENS, ("own", "tied"))))
    assert [[item.name for item in found.open] for found in own] == [["of_table"], ["of_table"]]


def test_of_inputs_that_may_all_hold_tokens_one_is_named() -> None:
    model = _model("decoder_input_ids", TOKENS, ("tied", "none"))
    with pytest.raises(UsageError, match="may hold token ids: input_ids"):
        ohp.prune(model, vocab=KEPT.tolist(), provider="cpu")
    made = ohp.prune(_model("tag_ids", TOKENS, ("tied", "tied")), vocab=KEPT.tolist(), provider="cpu")
    assert made.plan.vocabulary is not None and made.plan.vocabulary.inputs == (FIRST,)


def test_tables_that_an_operator_relates_are_cut_together_or_not_at_all() -> None:
    compared = "same = Equal(input_ids, tag_ids)\nreal = Cast<to = 1>(same)\nshare = Unsqueeze(real, two)"
    model = _model("tag_ids", TOKENS, ("none", "none"), f"{compared}\nout = Mul(y, share)")
    with pytest.raises(RefusedError, match="tag_ids is compared with token ids"):
        ohp.prune(model, vocab=KEPT.tolist(), token_ids=FIRST, provider="cpu")
    _check(model, {FIRST: TOKENS, "tag_ids": TOKENS}, [FIRST, "tag_ids"], [])
    tied = _model("tag_ids", TOKENS, ("tied", "tied"))
    with pytest.raises(RefusedError, match="of_other reads other, the table of tag_ids"):
        ohp.prune(tied, vocab=KEPT.tolist(), token_ids=FIRST, token_logits="of_other", provider="cpu")


def test_a_file_records_one_vocabulary() -> None:
    model = _model("tag_ids", TOKENS, ("tied", "tied"))
    made = ohp.prune(model, vocab=KEPT.tolist(), token_ids=FIRST, provider="cpu").model
    with pytest.raises(RefusedError, match="has lost tokens of input_ids before, and records one vocabulary"):
        ohp.prune(made, vocab=KEPT.tolist(), token_ids="tag_ids", provider="cpu")
    again = ohp.prune(made, vocab=[0, 2], token_ids=FIRST, provider="cpu")
    assert again.plan.vocabulary is not None and again.plan.vocabulary.left == 2
