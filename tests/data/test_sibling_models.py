"""Decoders that read an encoder: its states, the target behind the start token, and all that the folder tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from onnxheadprune.data.beside import beside, supplied
from onnxheadprune.data.calibration import MOST_SAMPLES, calibration_data
from onnxheadprune.data.lines import Reading
from onnxheadprune.data.text import text_data
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import open_structure
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.runtime.feeds.data import load_data
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from tests.data.stepping import run, stepped
from tests.graph_builder import GraphBuilder
from tests.graphs import pairs

PROVIDER = Provider(CPU, "test")
LINES = "w1 w2 w3 w4\nw9 w8 w7 w6\nw5 w4\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = pairs.folder(tmp_path_factory.mktemp("export") / "toy")
    (place / "lines.txt").write_text(LINES, encoding="utf-8")
    return place


def feeds_for(model: Path, text: Path, reading: Reading | None = None) -> list[dict[str, Any]]:
    loaded = open_structure(model)
    inputs = graph_inputs(view_of(loaded.proto))
    around = beside(model, PROVIDER)
    return [*text_data(text, model.parent, inputs, reading=reading or Reading(), beside=around).feeds]


@pytest.mark.parametrize("name", ["decoder_model", "decoder_model_merged"])
def test_logits_are_those_of_a_client_that_goes_through_the_cache(name: str, folder: Path) -> None:
    model = folder / f"{name}.onnx"
    short, long = feeds_for(model, folder / "lines.txt")
    for feed, ids in ((short, [[6, 5]]), (long, [[2, 3, 4, 5], [10, 9, 8, 7]])):
        source = np.array(ids)
        wanted = stepped(folder, source, np.ones_like(source), feed["input_ids"])
        found = run(model, feed)["logits"]
        assert np.abs(wanted).max() > 0.1
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        wrong = stepped(folder, source + 1, np.ones_like(source), feed["input_ids"])
        assert not np.allclose(found, wrong, rtol=1e-3)


def test_a_target_of_its_own(folder: Path, tmp_path: Path) -> None:
    rows = [("w1 w2 w3", "w4 w5"), ("w6", "w7 w8"), ("w9 w1", "w2"), ("w3", None)]
    text = tmp_path / "rows.jsonl"
    text.write_text("\n".join(json.dumps({"ask": ask, "answer": answer}) for ask, answer in rows))
    reading = Reading("ask", "answer")
    feeds = feeds_for(folder / "decoder_model.onnx", text, reading)
    # No mask hides the padding of a target, and that of a source may look like it: one length each.
    assert [feed["input_ids"].tolist() for feed in feeds] == [
        [[pairs.START]],
        [[pairs.START, 8]],
        [[pairs.START, 5]],
    ]
    assert [feed["encoder_attention_mask"].tolist() for feed in feeds] == [[[1, 1]], [[1]], [[1, 1, 1]]]
    by_hand = stepped(folder, np.array([[7]]), np.array([[1]]), feeds[1]["input_ids"])
    found = run(folder / "decoder_model.onnx", feeds[1])["logits"]
    np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)


def test_embedded_tokens(tmp_path: Path) -> None:
    toy = GraphBuilder()
    toy.node("Gather", [toy.weight("table", 19, 6), "input_ids"], "embeds")
    ids = toy.info("input_ids", ["b", "s"], TensorProto.INT64)
    onnx.save(toy.model([ids], [toy.info("embeds", ["b", "s", 6])]), tmp_path / "embed_tokens.onnx")
    model = tmp_path / "decoder_model_merged.onnx"
    toy = GraphBuilder()
    toy.node("Identity", ["inputs_embeds"], "y")
    infos = [
        toy.info("inputs_embeds", ["b", "s", 6]),
        toy.info("attention_mask", ["b", "s"], TensorProto.INT64),
    ]
    onnx.save(toy.model(infos, [toy.info("y", ["b", "s", 6])]), model)
    pairs.tokenizer(tmp_path)
    (tmp_path / "t.txt").write_text("w1 w2\nw3\n")
    (feed,) = feeds_for(model, tmp_path / "t.txt")
    assert feed["attention_mask"].tolist() == [[1, 0], [1, 1]]
    table = onnx.numpy_helper.to_array(onnx.load(tmp_path / "embed_tokens.onnx").graph.initializer[0])
    expected = table[[[4, 0], [2, 3]]]
    expected[0, 1] = 0
    np.testing.assert_array_equal(feed["inputs_embeds"], expected)
    (tmp_path / "embed_tokens.onnx").unlink()
    with pytest.raises(UsageError, match=r"holds embedded tokens, and no model that makes them"):
        feeds_for(model, tmp_path / "t.txt")


# The user's own data


def given(model: Path, arrays: dict[str, Any]) -> list[dict[str, Any]]:
    inputs = graph_inputs(view_of(onnx.load(model)))
    return [sample.feed for sample in load_data(supplied(arrays, inputs, beside(model, PROVIDER)), inputs)]


SOURCE = np.arange(40 * 5).reshape(40, 5) % 19
TARGET = np.arange(40 * 3).reshape(40, 3) % 17
BOTH = {"input_ids": SOURCE, "attention_mask": np.ones_like(SOURCE), "decoder_input_ids": TARGET}


@pytest.mark.parametrize("name", ["decoder_model", "decoder_model_merged"])
def test_data_for_encoder_and_decoder_together(name: str, folder: Path) -> None:
    feeds = given(folder / f"{name}.onnx", BOTH)
    assert [len(feed["input_ids"]) for feed in feeds] == [32, 8]
    np.testing.assert_array_equal(feeds[1]["input_ids"], TARGET[32:])
    wanted = run(folder / "encoder_model.onnx", {name: array[32:] for name, array in BOTH.items()})
    np.testing.assert_array_equal(feeds[1]["encoder_hidden_states"], wanted["last_hidden_state"])


def test_states_of_much_data_are_made_when_they_are_asked_for(folder: Path) -> None:
    model, copies = folder / "decoder_model.onnx", (MOST_SAMPLES + 2000) // 40
    much = {name: np.tile(array, (copies, 1)) for name, array in BOTH.items()}
    view = view_of(onnx.load(model))
    source = supplied(much, graph_inputs(view), beside(model, PROVIDER))
    data = calibration_data(source, view)
    assert MOST_SAMPLES <= data.count < MOST_SAMPLES + 64 and data.total == 40 * copies
    assert data.more is not None
    states = run(folder / "encoder_model.onnx", BOTH)["last_hidden_state"]
    for row in (data.samples[0], data.more.chunk(0)[0][0]):
        at = np.flatnonzero((row.feed["input_ids"] == TARGET).all(axis=1))[0]
        np.testing.assert_allclose(row.feed["encoder_hidden_states"][0], states[at], atol=1e-6)
        assert row.feed["encoder_attention_mask"].all()
