"""Texts by line, by field and by column, and tokenizers in every form that a folder has them in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser, save

from onnxheadprune import UsageError
from onnxheadprune.data.lines import Reading, Text, Texts
from onnxheadprune.data.more import Feeds
from onnxheadprune.data.sources import read_data
from onnxheadprune.data.text import text_feeds
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.settings.inputs import Running
from tests.calibration_files import tokenizer
from tests.conftest import Command, Outcome
from tests.graphs import toys
from tests.options.models import write_models


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return path


def sources(path: Path, reading: Reading | None = None) -> list[str]:
    return [text.source for text in Texts(path, reading or Reading())]


# Samples


def test_a_field_of_json_lines(tmp_path: Path) -> None:
    rows = [
        {"text": " one\u2028two ", "ask": "a"},
        "",
        {"text": "three", "ask": "b"},
        {"text": None, "ask": "c"},
    ]
    path = write(tmp_path / "rows.jsonl", *rows)
    assert sources(path) == ["one\u2028two", "three"]
    assert sources(path, Reading("ask")) == ["a", "b", "c"]
    assert sources(path, Reading("ask", most=2)) == ["a", "b"]
    assert list(Texts(path, Reading("ask", "text", 1))) == [Text("a", "one\u2028two")]
    assert list(Texts(path, Reading("ask", "text")))[2] == Text("c", "")


def test_a_field_in_a_field(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.ndjson", {"answer": {"value": "yes"}})
    assert sources(path, Reading("answer.value")) == ["yes"]
    dotted = write(tmp_path / "dotted.jsonl", {"answer.value": "no", "answer": {"value": "yes"}})
    assert sources(dotted, Reading("answer.value")) == ["no"]
    with pytest.raises(UsageError, match=r"has no field answer.text; it has answer"):
        sources(path, Reading("answer.text"))


def test_parquet_needs_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"JSON lines, requires pyarrow, .*: pip install 'pyarrow"):
        Texts(write(tmp_path / "rows.parquet", "x"))


def test_columns_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"text": [f"w{row}" for row in range(150)], "deep": [{"ask": f"a{row}"} for row in range(150)]}
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns | {"label": list(range(150))}), path)
    assert sources(path) == columns["text"]
    assert sources(path, Reading("deep.ask", most=70))[-1] == "a69"
    assert list(Texts(path, Reading("deep.ask", "text")))[149] == Text("a149", "w149")
    with pytest.raises(UsageError, match="has no field nothing; it has text, deep, label"):
        Texts(path, Reading("nothing"))
    with pytest.raises(UsageError, match=r"the field label of row 1 .* is no text, but of type int"):
        Texts(path, Reading("label"))
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(50) + whole[250:])
    with pytest.raises(UsageError, match="cannot be read as a Parquet file"):
        Texts(path)


# Tokenizers


def test_inspect_suggests_text_where_a_tokenizer_lies_beside_the_model(
    tmp_path: Path, command: Command
) -> None:
    onnx.save(toys.attention(ids=True), tmp_path / "model.onnx")
    assert "--data YOURS.npz" in command("inspect", tmp_path / "model.onnx").stdout
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "--data YOURS.txt" in command("inspect", tmp_path / "model.onnx").stdout


# The command line


@pytest.mark.slow
def test_options_of_texts(command: Command, tmp_path: Path) -> None:
    folder = write_models(tmp_path)
    toy = folder / "toy.onnx"
    lines = [{"text": f"w{row % 9} w{row % 7} w3", "question": f"w{row % 5} w4"} for row in range(24)]
    rows = write(folder / "many.jsonl", *lines)

    def score(*more: object) -> Outcome:
        return command("score", toy, "--data", rows, "--provider", "cpu", "--json", *more)

    # The tokenizer lies beside the model.
    plain, field = score(), score("--text-field", "question")
    assert plain.document["data"] != field.document["data"]
    assert plain.document["data"]["samples"] == 24
    assert score("--max-samples", "12").document["data"]["samples"] == 12
    for more, why in {
        ("--target-field", "question"): "is for models with an encoder and a decoder",
        ("--text-field", "nothing"): "has no field nothing",
        ("--max-samples", "0"): "is not in the range",
    }.items():
        outcome = score(*more)
        assert outcome.exit_code == 2 and why in " ".join(outcome.stderr.split()), outcome.stderr
    alone = command("score", toy, "--text-field", "question")
    assert alone.exit_code == 2 and "requires --data" in alone.stderr
    (folder / "tokenizer.json").unlink()
    outcome = score()
    assert outcome.exit_code == 2 and "unless a tokenizer lies beside the model" in " ".join(
        outcome.stderr.split()
    )


LIMITS = {
    "the tokenizer's": ({"model_max_length": 5}, {}, 5),
    "none": ({"model_max_length": 10**30}, {"max_position_embeddings": -1}, 12),
    "BART's table": ({}, {"model_type": "bart", "max_position_embeddings": 6, "pad_token_id": 1}, 6),
    "CLIP's table": ({}, {"model_type": "clip", "text_config": {"max_position_embeddings": 7}}, 7),
    "GPT-2's table": ({}, {"model_type": "gpt2", "n_positions": 8}, 8),
    "the smaller one": ({"model_max_length": 5}, {"max_position_embeddings": 4}, 4),
}


@pytest.mark.parametrize("name", LIMITS)
def test_text_for_a_folder_is_no_longer_than_its_configuration_allows(name: str, tmp_path: Path) -> None:
    settings, config, most = LIMITS[name]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = tokenizer(tmp_path, words=toys.VOCABULARY)
    text = write(tmp_path / "lines.txt", " ".join(f"w{number}" for number in range(12)), "w1 w2")
    inputs = graph_inputs(view_of(LoadedModel.of(toys.stack(), "m")))
    for place in (words, tmp_path):
        feeds = list(text_feeds(text, place, inputs))
        assert max(feed["input_ids"].shape[1] for feed in feeds) == most
    # What a user asks for is theirs: the model refuses it, or takes it.
    (longest, *_) = text_feeds(text, words, inputs, max_length=11)
    assert longest["input_ids"].shape[1] in (2, 11)
    (tmp_path / "config.json").write_text("{")
    assert list(text_feeds(text, words, inputs))


POSITIONS = """
<ir_version: 8, opset_import: ["" : 17]>
graph (int64[batch, seq] input_ids) => (float[batch, seq, 4] states)
<int64[1] first = {0}, int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1, 6] numbers = {0, 1, 2, 3, 4, 5}> {
    embedded = Gather(embed, input_ids)
    shape = Shape(input_ids)
    length = Slice(shape, last, end)
    @
    states = Add(embedded, places)
}
"""
TABLES = {
    "counted from the start": ("size = Squeeze(length)\n range = Range(zero, size, one)\n", "range", 6),
    "counted behind the padding": (
        "some = Greater(input_ids, zero)\n ones = Cast<to=7>(some)\n sums = CumSum(ones, one)\n at = Add(sums, one)",
        "at",
        4,
    ),
    "numbers that are stored": ("some = Slice(numbers, first, length, one1)\n", "some", 6),
}


@pytest.mark.parametrize("config", [{}, {"max_position_embeddings": 6}], ids=["no configuration", "one"])
@pytest.mark.parametrize("name", TABLES)
def test_text_is_no_longer_than_the_table_of_positions_in_the_graph(
    name: str, config: dict[str, int], tmp_path: Path
) -> None:
    """However positions are computed; a configuration may count rows that stand for padding."""
    nodes, places, most = TABLES[name]
    text = POSITIONS.replace("@", f"{nodes} places = Gather(table, {places})")
    model = parser.parse_model(text)
    random = np.random.default_rng(0)
    tables = {"embed": random.random((toys.VOCABULARY, 4)), "table": random.random((6, 4))}
    for name, array in tables.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    for name, number in {"last": 1, "end": 2, "one1": 1}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array([number]), name))
    save(model, tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer(tmp_path, words=toys.VOCABULARY)
    lines = write(tmp_path / "lines.txt", " ".join(f"w{number}" for number in range(12)), "w1 w2")
    feeds = read_data(tmp_path / "model.onnx", Running(data=str(lines), provider="cpu"))
    assert isinstance(feeds, Feeds)
    assert max(feed["input_ids"].shape[1] for feed in feeds) == most
