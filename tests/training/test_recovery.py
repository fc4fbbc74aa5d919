"""A recovered model is better and is still a proven cut; what cannot be recovered is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxheadprune import PruneResult, RefusedError, prune, recover, validate
from onnxheadprune.choosing.compensation.record import digest
from tests.conftest import Outcome
from tests.graphs import toys
from tests.recording import recorded, rewritten
from tests.training.trainings import HEADS, drift

SENTENCES = toys.sentences()


def recovered(output: Path | None = None, **given: Any) -> PruneResult:
    settings: dict[str, Any] = {
        "data": SENTENCES,
        "recover": 6,
        "refit": False,
        "provider": "cpu",
    }
    return prune(toys.encoder(), output, heads=HEADS, **{**settings, **given})


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> PruneResult:
    return recovered(tmp_path_factory.mktemp("recovered") / "out.onnx")


# It pays, and it is proven


def test_rows_of_removed_heads_are_as_they_were(result: PruneResult) -> None:
    assert result.chosen is not None and result.chosen.recovery is not None
    before = {item.name: numpy_helper.to_array(item) for item in toys.encoder().graph.initializer}
    after = result.chosen.recovery.stored["layer0.attn.out.weight"]
    gone = np.repeat([False, True, True, False], toys.HEAD_SIZE)
    assert np.array_equal(after[gone], before["layer0.attn.out.weight"][gone])
    assert not np.array_equal(after[~gone], before["layer0.attn.out.weight"][~gone])
    assert "embed" not in result.chosen.recovery.stored


@pytest.mark.slow
def test_a_tensor_that_no_training_changes_is_not_taken(result: PruneResult) -> None:
    """A file may not bring along an embedding by saying that it was trained."""
    forged = ModelProto()
    forged.CopyFrom(result.model)
    for tensor in forged.graph.initializer:
        if tensor.name == "embed.weight":
            other = numpy_helper.to_array(tensor) * 1.5
            tensor.CopyFrom(numpy_helper.from_array(other, tensor.name))
    with rewritten(forged) as record:
        record["refit"]["tensors"].append("embed.weight")
        record["refit"]["digests"]["embed.weight"] = digest(other)
    verdict = validate(toys.encoder(), forged, provider="cpu")
    assert verdict.verdict == "failed" and "no refit of this cut changes" in verdict.reason


@pytest.mark.slow
def test_without_the_mark_of_training_normalisations_are_not_taken(result: PruneResult) -> None:
    forged = ModelProto()
    forged.CopyFrom(result.model)
    with rewritten(forged) as record:
        assert record["refit"]["steps"] > 0
        record["refit"]["steps"] = 0
    verdict = validate(toys.encoder(), forged, provider="cpu")
    assert verdict.verdict == "failed" and "no refit of this cut changes" in verdict.reason


# Other weights


@pytest.mark.slow
def test_half_precision_is_trained_in_single_and_stored_in_half() -> None:
    model = toys.stack(dtype=np.float16)
    found = prune(model, heads=HEADS, data=toys.ids(), recover=6, refit=False, provider="cpu")
    assert found.validation is not None and found.validation.passed and found.chosen is not None
    assert found.chosen.recovery is not None and found.chosen.recovery.best
    assert {str(array.dtype) for array in found.chosen.recovery.stored.values()} == {"float16"}


@pytest.mark.slow
def test_quantized_weights_are_trained_through_their_levels() -> None:
    model = toys.stack(quantized=True)
    found = prune(model, heads={0: [1]}, data=toys.ids(), recover=8, refit=False, provider="cpu")
    assert found.chosen is not None and found.chosen.recovery is not None
    stored, held = found.chosen.recovery.stored, found.chosen.recovery.constant
    name = "layer0.attn.out.weight"
    assert name not in held and stored[name].dtype == np.int8
    assert not np.array_equal(stored[name], toys.get_initializer(model, name))


@pytest.mark.slow
def test_cuts_that_are_stored_several_times_stay_alike() -> None:
    model = toys.stack(shared=True)
    found = prune(model, heads={0: [1], 1: [2]}, data=toys.ids(), recover=1, refit=False, provider="cpu")
    assert found.chosen is not None and found.chosen.recovery is not None
    assert any("several cuts" in reason for reason in found.chosen.recovery.constant.values())


def test_blocks_of_four_bits_are_refused() -> None:
    with pytest.raises(RefusedError, match=r"packed in blocks .* recover the model before it is quantized"):
        prune(
            toys.packed(toys.stack(), 0),
            heads={0: [1]},
            data=toys.ids(),
            recover=1,
            provider="cpu",
        )


def test_an_output_without_gradients_is_refused_before_work() -> None:
    """A product of rounded activations has none, and here every way to the output leads through one."""
    model = toys.stack(layers=1)
    node = next(node for node in model.graph.node if list(node.output) == ["logits"])
    node.input[0] = "rounded"
    model.graph.node.insert(
        len(model.graph.node) - 1, helper.make_node("Round", ["layer0.ffn.stream"], ["rounded"])
    )
    model.graph.node.append(helper.make_node("Sign", ["logits"], ["signs"]))
    model.graph.output[0].name = "signs"
    with pytest.raises(RefusedError, match="no gradient of signs reaches a weight"):
        prune(model, heads={0: [1]}, data=toys.ids(), recover=1, provider="cpu")


def test_weights_in_double_precision_are_refused_before_work() -> None:
    model = toys.encoder(dtype=np.float64)
    with pytest.raises(RefusedError, match="stored in double precision, and training is in single precision"):
        prune(model, heads=HEADS, data=SENTENCES, recover=1, refit=False, provider="cpu")


# Commands


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, its cut, and sentences for both."""
    monkeypatch.chdir(tmp_path)
    onnx.save(toys.encoder(), "model.onnx")
    prune("model.onnx", "pruned.onnx", heads=HEADS, provider="cpu")
    Path("data").mkdir()
    for number, feed in enumerate(SENTENCES):
        np.savez(f"data/{number}.npz", **feed)  # type: ignore[arg-type]
    return tmp_path


@pytest.mark.slow
def test_a_pruned_model_is_recovered_afterwards(folder: Path, command: Callable[..., Outcome]) -> None:
    line = (
        "recover",
        "model.onnx",
        "pruned.onnx",
        "--data",
        "data",
        "-o",
        "out.onnx",
        "--budget",
        6,
        "--json",
    )
    outcome = command(*line)
    assert outcome.exit_code == 0, outcome.stderr
    made = onnx.load("out.onnx")
    assert drift(made) < 0.8 * drift(onnx.load("pruned.onnx"))
    again = recover("model.onnx", "out.onnx", data=SENTENCES, budget=2, provider="cpu")
    before, after = (recorded(model)["refit"]["steps"] for model in (made, again.model))
    assert after >= before > 0


@pytest.mark.slow
def test_a_refit_that_has_seen_the_judge_is_made_again(folder: Path) -> None:
    """Two calls with one set of data write what one call writes: no training is compared with a refit that knew it."""
    settings: dict[str, Any] = {"data": SENTENCES, "provider": "cpu"}
    prune("model.onnx", "refitted.onnx", heads=HEADS, refit=True, **settings)
    after = recover("model.onnx", "refitted.onnx", budget=6, **settings)
    at_once = prune("model.onnx", heads=HEADS, refit=True, recover=6, **settings)
    assert after.chosen is not None and after.chosen.recovery is not None
    assert after.chosen.recovery.rejected is None and after.chosen.held_out
    assert [item.raw_data for item in after.model.graph.initializer] == [
        item.raw_data for item in at_once.model.graph.initializer
    ]
    other = recover("model.onnx", "refitted.onnx", data=SENTENCES[:-1], provider="cpu", budget=1)
    assert other.chosen is not None and other.chosen.compensation is not None
    assert other.chosen.compensation.data == after.chosen.compensation.data  # type: ignore[union-attr]


@pytest.mark.slow
def test_what_is_no_cut_of_the_model_is_not_recovered(folder: Path, command: Callable[..., Outcome]) -> None:
    damaged = onnx.load("pruned.onnx")
    toys.set_initializer(
        damaged, "layer0.ffn.up.weight", toys.get_initializer(damaged, "layer0.ffn.up.weight") + 1
    )
    onnx.save(damaged, "pruned.onnx")
    outcome = command("recover", "model.onnx", "pruned.onnx", "--data", "data", "-o", "out.onnx")
    assert outcome.exit_code == 1 and "not shown to be a cut" in outcome.stderr
    assert not Path("out.onnx").exists()


@pytest.mark.slow
def test_a_file_in_the_place_of_the_checkpoint_is_left_alone(
    folder: Path, command: Callable[..., Outcome]
) -> None:
    Path("out.onnx.recovery").write_text("mine")
    outcome = command(
        "prune", "model.onnx", "--heads", "0:1", "--data", "data", "-o", "out.onnx", "--recover", 1
    )
    assert outcome.exit_code == 2 and "is not what this tool would write" in " ".join(outcome.stderr.split())
    assert Path("out.onnx.recovery").read_text() == "mine" and not Path("out.onnx").exists()
