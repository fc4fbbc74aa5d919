"""Heads are chosen and refitted on text: one command for a folder with an encoder, and what comes out fits together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxheadprune import inspect
from tests.calibration_files import tokenizer
from tests.conftest import Command
from tests.data.stepping import run, stepped, texts
from tests.graphs import fused, pairs, toys
from tests.liveness.masks import Array

DECODERS = ("decoder_model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx")


def removed(path: Path) -> list[tuple[int, ...]]:
    return [site.removed for site in inspect(path)]


def weights(path: Path) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def merged_logits(folder: Path, ids: Array, mask: Array, target: Array) -> Array:
    """The same as `stepped`, all tokens at once, through the merged decoder."""
    states = run(folder / "encoder_model.onnx", {"input_ids": ids, "attention_mask": mask})[
        "last_hidden_state"
    ]
    path = folder / "decoder_model_merged.onnx"
    feed = {"input_ids": target, "encoder_hidden_states": states, "encoder_attention_mask": mask}
    for item in onnx.load(path).graph.input:
        if "past" in item.name:
            heads = item.type.tensor_type.shape.dim[1].dim_value
            feed[item.name] = np.zeros((len(target), heads, 0, toys.HEAD_SIZE), np.float32)
    feed["use_cache_branch"] = np.array([False])
    return run(path, feed)["logits"]


@pytest.mark.slow
@pytest.mark.parametrize("split", [True, False], ids=["split and merged", "merged alone"])
def test_a_folder_with_an_encoder_on_text(split: bool, command: Command, tmp_path: Path) -> None:
    folder, out = pairs.folder(tmp_path / "in", split=split), tmp_path / "out"
    outcome = command(
        "prune", folder, "-o", out, "--ratio", "0.25", "--data", texts(tmp_path / "t.txt"), "--json"
    )
    assert outcome.exit_code == 0, outcome.stderr
    files = {item["file"]: item for item in outcome.document["files"]}
    assert not any("weights alone" in text for text in outcome.document["warnings"])
    leaders = [item for item in files.values() if item["leads"]]
    assert {item["file"] for item in leaders} == {DECODERS[0 if split else 1], "encoder_model.onnx"}
    for item in leaders:
        assert item["choice"]["selection"]["basis"] == "measured drift after refit"
        assert item["choice"]["compensation"]["tensors"] and item["choice"]["compensation"]["samples"] == 60
    assert all(item["validation"]["verdict"] == "passed" for item in files.values())
    decoders = [out / name for name in DECODERS if (out / name).is_file()]
    gone = removed(decoders[0])
    assert len(decoders) == (3 if split else 1) and sum(map(len, gone)) == 2
    assert all(removed(path) == gone for path in decoders)
    assert any(
        not np.array_equal(array, weights(folder / "decoder_model_merged.onnx")[name])
        for name, array in weights(out / "decoder_model_merged.onnx").items()
        if array.shape == weights(folder / "decoder_model_merged.onnx")[name].shape
    )
    random = np.random.default_rng(1)
    ids, target = random.integers(0, 19, (2, 5)), random.integers(0, 19, (2, 6))
    mask = np.ones_like(ids)
    before = merged_logits(folder, ids, mask, target)
    after = merged_logits(out, ids, mask, target)
    assert not np.allclose(before, after, rtol=1e-3)
    if split:
        # The decoders of the new folder still go through each other's caches, refitted ones too.
        np.testing.assert_allclose(stepped(out, ids, mask, target), after, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_speech_through_data(command: Command, tmp_path: Path) -> None:
    """The encoder of speech gets its features, the decoder tokens and what the encoder makes of these."""
    folder, out = pairs.folder(tmp_path / "in", features=True), tmp_path / "out"
    random = np.random.default_rng(0)
    sound = random.standard_normal((40, 6, toys.FEATURES)).astype(np.float32)
    data = tmp_path / "d.npz"
    np.savez(data, input_features=sound, decoder_input_ids=random.integers(0, 19, (40, 7)))
    outcome = command("prune", folder, "-o", out, "--ratio", "0.25", "--data", data, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    leaders = [item for item in outcome.document["files"] if item["leads"]]
    assert [item["choice"]["compensation"]["samples"] for item in leaders] == [40, 40]
    assert command("validate", folder, out, "--data", data).exit_code == 0
    text = command(
        "prune", folder, "-o", tmp_path / "two", "--ratio", "0.25", "--data", texts(tmp_path / "t.txt")
    )
    assert text.exit_code == 2 and "does not run on text alone: it takes input_features" in " ".join(
        text.stderr.split()
    )
    np.savez(data, decoder_input_ids=random.integers(0, 19, (40, 7)))
    bare = command("prune", folder, "-o", tmp_path / "two", "--ratio", "0.25", "--data", data)
    assert bare.exit_code == 2 and "lacks the input input_features (float32 [batch_size, " in " ".join(
        bare.stderr.split()
    )


def genai(folder: Path) -> Path:
    """A folder as onnxruntime-genai's model builder writes it."""
    folder.mkdir()
    model = fused.decoder()
    table = np.random.default_rng(0).standard_normal((19, fused.HIDDEN)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    model.graph.node.insert(0, helper.make_node("Gather", ["table", "input_ids"], ["x"], name="embed"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input_ids", 7, ["batch", "sequence"]))
    # The builder writes down the types of what ONNX Runtime's own operators give.
    width = fused.HEADS * fused.HEAD_SIZE
    model.graph.value_info.append(helper.make_tensor_value_info("context", 1, ["batch", "sequence", width]))
    onnx.save(model, folder / "model.onnx")
    (folder / "genai_config.json").write_text("{}")
    tokenizer(folder, 19)
    return folder
