"""Tables lose rows, maps to logits lose columns, ids get new numbers; what is left equals the original on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxheadprune as ohp
from onnxheadprune import RefusedError
from onnxheadprune.attention.vocabulary.find import vocabularies
from onnxheadprune.attention.vocabulary.trim import trimming
from onnxheadprune.edit.records import record_of, write_record
from onnxheadprune.model.graph.operator import CONVOLVES
from onnxheadprune.model.load import open_structure
from onnxheadprune.operators import view_of
from tests.conftest import Command
from tests.graphs import exits, pairs, toys
from tests.model.operator_records import key_of, keys_with
from tests.vocabulary.graphs import (
    GRAPHS,
    KEPT,
    TABLE,
    TOKENS,
    UNTIED,
    feeds,
    graph,
    of_kept,
    run,
)
from tests.vocabulary.quantized import BLOCKED, HEADS, TABLES, TIED


def written(path: Path, model: ModelProto) -> Path:
    onnx.save(model, path)
    return path


def kept_file(folder: Path, kept: np.ndarray = KEPT) -> Path:
    path = folder / "keep.txt"
    path.write_text("\n".join(map(str, kept)), "utf-8")
    return path


FORMS = {**GRAPHS, **{str(key): make for key, make in chain(HEADS.items(), TABLES.items(), TIED.items())}}
NO_KERNEL = "FusedMatMulActivation"
"""ONNX Runtime has none on the CPU."""


@pytest.mark.parametrize("name", FORMS)
def test_it_equals_the_original_on_the_tokens_that_are_kept(name: str, pytestconfig: pytest.Config) -> None:
    """The oracle knows nothing of tables: new ids in one model, the original's in the other, logits picked by hand."""
    model, proven = FORMS[name](), pytestconfig.getoption("all") and NO_KERNEL not in name
    more = {"token_logits": UNTIED[name]} if name in UNTIED else {}
    result = ohp.prune(model, vocab=KEPT.tolist(), validate=proven, provider="cpu", **more)
    assert not proven or (result.validation is not None and result.validation.likeness.identical)
    assert result.plan.vocabulary is not None and result.plan.vocabulary.tables
    made = result.model
    sizes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    for tensor in made.graph.initializer:
        assert (TOKENS in tensor.dims) <= (name in GRAPHS and list(tensor.dims) == sizes.get(tensor.name))
        assert name not in GRAPHS or any(tensor.name in node.input for node in made.graph.node)
    for table in result.plan.vocabulary.tables:
        assert TOKENS not in next(tensor.dims for tensor in made.graph.initializer if tensor.name == table)
    if NO_KERNEL not in name:
        new, old = feeds(model, KEPT)
        wanted = of_kept(run(model, old)[0], model, made, KEPT)
        np.testing.assert_allclose(run(made, new)[0], wanted, rtol=0, atol=1e-6)


def operators(model: ModelProto) -> set[tuple[str, str]]:
    return {(node.domain, node.op_type) for node in model.graph.node}


def test_every_operator_that_multiplies_or_picks_is_tried() -> None:
    tried = {key for make in (*FORMS.values(), *GRAPHS.values()) for key in operators(make())}
    products = keys_with(lambda record: record.operands is not None)
    assert set(products) - set(map(key_of, CONVOLVES)) <= tried
    of_elements = {("", "GatherElements"), ("", "ScatterElements")}
    assert set(keys_with(lambda record: record.roles.rows)) - of_elements <= tried


@pytest.mark.parametrize("operator", BLOCKED)
def test_a_scale_of_several_tokens(operator: str) -> None:
    """Tokens cannot go one by one from a block that they share, and the reason is that."""
    with pytest.raises(RefusedError, match=rf"the vocabulary cannot get smaller: .*{operator}"):
        trimming(open_structure(BLOCKED[operator]()), KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["rows", "columns", "record", "shorter"])
def test_a_wrong_table_is_seen(command: Command, tmp_path: Path, damage: str) -> None:
    path, out = written(tmp_path / "model.onnx", GRAPHS["untied_capped"]()), tmp_path / "out.onnx"
    assert command("prune", path, "-o", out, "--vocab", kept_file(tmp_path)).exit_code == 0
    wrong = onnx.load(out)
    if damage == "record":
        other = trimming(open_structure(path), [0, 1, 2, 5, 7, 10]).model.proto
        write_record(wrong, replace(record_of(wrong), vocabulary=record_of(other).vocabulary))
    elif damage == "rows":
        table = toys.get_initializer(wrong, "table").copy()
        table[[4, 5]] = table[[5, 4]]
        toys.set_initializer(wrong, "table", table)
    elif damage == "columns":
        toys.set_initializer(wrong, "head", toys.get_initializer(wrong, "head")[:, ::-1].copy())
    else:
        toys.set_initializer(wrong, "table", toys.get_initializer(wrong, "table")[:5].copy())
    onnx.save(wrong, out)
    shown = command("validate", path, out, "--provider", "cpu")
    assert shown.exit_code == 1, shown.stdout


@pytest.mark.slow
def test_it_goes_with_heads_neurons_and_layers_in_one_call(command: Command, tmp_path: Path) -> None:
    path, out = written(tmp_path / "model.onnx", toys.stack()), tmp_path / "out.onnx"
    kept = np.array([0, 2, 4, 5, 6, 11, 18])
    cut = ["--heads", "0:1", "--neurons", "1:0,3", "--layers", "attn.1"]
    shown = command("prune", path, "-o", out, "--vocab", kept_file(tmp_path, kept), *cut, "-v")
    assert shown.exit_code == 0, shown.stderr
    words = " ".join(shown.stdout.split())
    for word in ("heads 8 -> 3", "neurons 40 -> 38", "tokens 19 -> 7", "7 of 19 tokens kept"):
        assert word in words
    apart, ids = tmp_path / "apart.onnx", np.arange(7)[None]
    assert command("prune", path, "-o", apart, *cut).exit_code == 0
    (got,), (wanted,) = run(out, {"input_ids": ids}), run(apart, {"input_ids": kept[ids]})
    np.testing.assert_allclose(got, wanted[..., kept], rtol=1e-5, atol=1e-6)
    again = tmp_path / "again.onnx"
    assert command("prune", out, "-o", again, "--heads", "0:2").exit_code == 0
    assert command("validate", path, again).exit_code == 0
    assert command("validate", out, again).exit_code == 0
    swapped = command("validate", out, path)
    assert swapped.exit_code == 2


@pytest.mark.slow
def test_a_choice_by_data_sees_new_ids(command: Command, tmp_path: Path) -> None:
    path, out = written(tmp_path / "model.onnx", toys.stack()), tmp_path / "out.onnx"
    ids = np.random.default_rng(0).integers(0, 12, (40, 6))
    ids[:5, 2] = 17
    np.savez(tmp_path / "data.npz", input_ids=ids)
    data = ["--data", tmp_path / "data.npz", "--provider", "cpu", "--json"]
    shown = command(
        "prune", path, "-o", out, "--vocab", kept_file(tmp_path, np.arange(12)), "--ratio", "0.25", *data
    )
    assert shown.exit_code == 0, shown.stderr
    assert shown.document["plan"]["vocabulary"]["kept"] == 12 and shown.document["plan"]["cuts"]
    spelling = shown.document["spelling"]
    assert (spelling["tokens"], spelling["unchanged"]) == (240, 235)
    assert (spelling["samples"], spelling["whole"]) == (40, 35)
    # The same call with a number: twelve tokens and the one in five samples are what the data has.
    again = command("prune", path, "-o", tmp_path / "n.onnx", "--vocab-size", "13", *data)
    assert again.exit_code == 0, again.stderr
    assert record_of(onnx.load(tmp_path / "n.onnx")).vocabulary.kept == (*range(12), 17)
    assert again.document["spelling"]["unchanged_share"] == 1


@pytest.mark.slow
def test_tokens_are_removed_once_more(command: Command, tmp_path: Path) -> None:
    path, once, twice = (tmp_path / f"{name}.onnx" for name in ("model", "once", "twice"))
    written(path, GRAPHS["tied"]())
    assert command("prune", path, "-o", once, "--vocab", kept_file(tmp_path)).exit_code == 0
    # Ids are those of the file that is cut.
    assert (
        command("prune", once, "-o", twice, "--vocab", kept_file(tmp_path, np.array([1, 2, 5]))).exit_code
        == 0
    )
    assert record_of(onnx.load(twice)).vocabulary.kept == (1, 3, 10)
    for original in (path, once):
        assert command("validate", original, twice).exit_code == 0
    other = trimming(open_structure(path), [0, 2, 3]).model.proto
    shown = command("validate", once, written(tmp_path / "other.onnx", other))
    assert shown.exit_code == 2 and "do not belong together" in shown.stderr


@pytest.mark.slow
def test_a_model_with_an_exit_and_fewer_tokens(command: Command, tmp_path: Path) -> None:
    model = exits.nested()
    embed = helper.make_node("Gather", ["words", "ids"], ["x"])
    name = model.graph.input[0].name
    embed.output[0] = name
    model.graph.node.insert(0, embed)
    words = np.random.default_rng(3).uniform(-1, 1, (9, exits.WIDTH)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(words, "words"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"]))
    path, out = written(tmp_path / "model.onnx", model), tmp_path / "out.onnx"
    shown = command(
        "prune",
        path,
        "-o",
        out,
        "--exit",
        "1",
        "--vocab",
        kept_file(tmp_path, np.array([0, 2, 3, 4, 8])),
        "-v",
    )
    assert shown.exit_code == 0, shown.stderr
    assert "forced to exit 1 and its token ids translated" in " ".join(shown.stdout.split())
    assert command("validate", path, out).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("make", [toys.merged, toys.decoder, lambda: pairs.decoder(past=True)])
def test_decoders_with_caches(make: Callable[[], ModelProto]) -> None:
    made = ohp.prune(make(), vocab=[0, 2, 3, 5, 7, 8, 12, 18], provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed"
    assert made.plan.vocabulary is not None and made.plan.vocabulary.outputs == ("logits",)


TWO = "words = Gather(table, first)\nmore = Gather(other, second)\nx = Add(words, more)"
TWO_INPUTS = "int64[batch, seq] first, int64[batch, seq] second"
STATES = "float[batch, seq, 6] out"


@pytest.mark.slow
def test_where_two_inputs_might_hold_tokens_it_is_asked_for(command: Command, tmp_path: Path) -> None:
    made = graph(TWO, more=f"{TABLE}, float[20, 6] other", inputs=TWO_INPUTS, output=STATES)
    path, out = written(tmp_path / "model.onnx", made), tmp_path / "out.onnx"
    call = ["prune", path, "-o", out, "--vocab", kept_file(tmp_path)]
    shown = command(*call)
    assert shown.exit_code == 2 and not out.exists()
    assert "several inputs of" in shown.stderr and "--token-ids" in shown.stderr
    assert command(*call, "--token-ids", "third").exit_code == 2
    assert command(*call, "--token-ids", "second").exit_code == 0
    assert toys.get_initializer(onnx.load(out), "other").shape == (6, 6)
    assert toys.get_initializer(onnx.load(out), "table").shape == (12, 6)
    assert command("validate", path, out).exit_code == 0


def test_inputs_of_one_table_go_together() -> None:
    made = graph(TWO.replace("other", "table"), more=TABLE, inputs=TWO_INPUTS, output=STATES)
    (found,) = vocabularies(view_of(made))
    assert found.inputs == ("first", "second")
    assert ohp.prune(made, vocab=KEPT.tolist(), provider="cpu").plan.vocabulary is not None
