"""Each input and output that means token ids follows, or the cut is refused with its name; no guess is made."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxheadprune as ohp
from onnxheadprune.attention.vocabulary.find import vocabularies
from onnxheadprune.edit.records import record_of
from onnxheadprune.operators import view_of
from tests.conftest import Command
from tests.graph_text import model_of
from tests.vocabulary.graphs import FRONT, GRAPHS, HEAD, KEPT, STATES, TABLE, graph, run
from tests.vocabulary.refused import CLASSES, FIRST, HEAD_12, OPEN


def kept_of(model: ModelProto, **more: str) -> ModelProto:
    return ohp.prune(model, vocab=KEPT.tolist(), provider="cpu", **more).model


def width(model: ModelProto) -> int:
    return model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value


def test_a_classifier_keeps_its_classes() -> None:
    """It reads the state of the first position, and has as many classes as there are tokens."""
    model = graph(FRONT, FIRST, more=f"{HEAD_12}, int64 place = {{0}}", output=CLASSES)
    plan = ohp.prune(model, vocab=KEPT.tolist(), provider="cpu").plan
    assert plan.notes == ("out keeps all of its 12 values, which are taken for classes and not for tokens",)
    made = kept_of(model)
    ids = np.array([[0, 2, 4, 1]])
    np.testing.assert_array_equal(run(made, {"input_ids": ids})[0], run(model, {"input_ids": KEPT[ids]})[0])


@pytest.mark.first_case
@pytest.mark.parametrize("name", OPEN)
def test_what_the_model_does_not_show_is_asked(command: Command, tmp_path: Path, name: str) -> None:
    """With the answer, the logits follow or stay as they are, and the record of the file says which."""
    model = OPEN[name]()
    path, keep = tmp_path / "model.onnx", tmp_path / "keep.txt"
    onnx.save(model, path)
    keep.write_text("\n".join(map(str, KEPT)), "utf-8")
    call = ("prune", path, "-o", tmp_path / "out.onnx", "--vocab", keep, "--provider", "cpu")
    shown = command(*call)
    assert shown.exit_code == 2 and "--token-logits out, else --token-logits none" in shown.stderr
    assert command(*call, "--token-logits", "outs").exit_code == 2
    ids = np.array([[0, 2, 4, 1]])
    (wanted,) = run(model, {"input_ids": KEPT[ids]})
    before = width(model)
    for answer, columns in (("out", KEPT[before > KEPT]), ("none", np.arange(before))):
        shown = command(*call, "--token-logits", answer)
        assert shown.exit_code == 0, shown.stderr
        made = onnx.load(tmp_path / "out.onnx")
        np.testing.assert_allclose(run(made, {"input_ids": ids})[0], wanted[..., columns], rtol=0, atol=1e-6)
        told = f"out keeps {len(columns)} of its {before} columns: those of the tokens kept"
        assert (told in shown.stdout) == (answer == "out" and before != 12)
        assert record_of(made).vocabulary.outputs == (("out",) if answer == "out" else ())
        assert command("validate", path, tmp_path / "out.onnx", "--provider", "cpu").exit_code == 0


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


def test_stored_tokens_behind_many_moves_are_followed_once() -> None:
    """Each move doubles them: by paths there would be 2 ** 40, and one call in another for each move."""
    moves = "\n".join(f"t{at + 1} = Concat<axis = 0>(t{at}, t{at})" for at in range(40))
    model = graph(
        f"many = Shape(input_ids)\nt0 = Expand(start, many)\n{moves}\nfirst = Slice(t40, zero, one)\n"
        "made = Concat<axis = 0>(first, input_ids)\nx = Gather(table, made)",
        more=f"{TABLE}, int64[1, 1] start = {{5}}, int64[1] zero = {{0}}, int64[1] one = {{1}}",
        output="float[more, seq, 6] out",
    )
    (found,) = vocabularies(view_of(model))
    assert found.stored == {5}


def test_negative_numbers_are_no_ids() -> None:
    """They mean the same in the pruned model: a place that is filled with something else."""
    model = GRAPHS["negative_ids"]()
    ids = np.array([[0, -1, 3], [-1, 5, 2]])
    old = np.where(ids < 0, ids, KEPT[np.maximum(ids, 0)])
    np.testing.assert_allclose(
        run(kept_of(model), {"input_ids": ids})[0], run(model, {"input_ids": old})[0], atol=1e-6
    )


NETWORK = "h = MatMul(x, w_1)\nbent = Relu(h)\nback = MatMul(bent, w_2)\nout = Add(x, back)"
WITHOUT = {
    "a table alone": (lambda: GRAPHS["bag"](), ()),
    "a feed-forward network": (
        lambda: model_of(
            f"{HEAD.format(opset=17)}g (int64[batch, seq] input_ids) => (float[batch, seq, 6] out)"
            f" <{TABLE}, float[6, 16] w_1, float[16, 6] w_2> {{ x = Gather(table, input_ids)\n{NETWORK} }}",
            0,
        ),
        ("--neurons", "0:1,3"),
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_models_without_attention_lose_tokens(command: Command, tmp_path: Path, name: str) -> None:
    """Nothing that is shown speaks of heads."""
    make, more = WITHOUT[name]
    path, out, keep = tmp_path / "model.onnx", tmp_path / "out.onnx", tmp_path / "keep.txt"
    onnx.save(make(), path)
    keep.write_text("\n".join(map(str, KEPT)), "utf-8")
    assert command("inspect", path).exit_code == 0
    shown = command("prune", path, "-o", out, "--vocab", keep, *more, "--provider", "cpu")
    assert shown.exit_code == 0, shown.stderr
    answer = shown.stdout.partition("next ")[0]
    assert re.search(r"tokens +12 -> 6 ", answer) and "head" not in answer
    checked = command("validate", path, out, "--provider", "cpu")
    assert checked.exit_code == 0 and "head" not in checked.stdout
    assert command("prune", out, "-o", tmp_path / "again.onnx", "--vocab", keep).exit_code == 2
