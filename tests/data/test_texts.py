"""Texts by line, by field and by column, and tokenizers in every form that a folder has them in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from onnxheadprune import UsageError
from onnxheadprune.data.lines import MOST, Reading, Text, read_texts
from onnxheadprune.data.text import text_data
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from tests.calibration_files import tokenizer
from tests.graphs import toys


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return path


def sources(path: Path, reading: Reading | None = None) -> list[str]:
    return [text.source for text in read_texts(path, reading or Reading())]


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
    assert read_texts(path, Reading("ask", "text", 1)) == [Text("a", "one\u2028two")]
    assert read_texts(path, Reading("ask", "text"))[2] == Text("c", "")


def test_columns_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"text": [f"w{row}" for row in range(150)], "deep": [{"ask": f"a{row}"} for row in range(150)]}
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns | {"label": list(range(150))}), path)
    assert sources(path) == columns["text"]
    assert sources(path, Reading("deep.ask", most=70))[-1] == "a69"
    assert read_texts(path, Reading("deep.ask", "text"))[149] == Text("a149", "w149")
    with pytest.raises(UsageError, match="has no field nothing; it has text, deep, label"):
        read_texts(path, Reading("nothing"))
    with pytest.raises(UsageError, match=r"the field label of row 1 .* is no text, but of type int"):
        read_texts(path, Reading("label"))
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(50) + whole[250:])
    with pytest.raises(UsageError, match="cannot be read as a Parquet file"):
        read_texts(path)


# The command line


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
        feeds = text_data(text, place, inputs).feeds
        assert max(feed["input_ids"].shape[1] for feed in feeds) == most
    # What a user asks for is theirs: the model refuses it, or takes it.
    (longest, *_) = text_data(text, words, inputs, max_length=11).feeds
    assert longest["input_ids"].shape[1] in (2, 11)
    (tmp_path / "config.json").write_text("{")
    assert list(text_data(text, words, inputs))


def test_of_a_text_beyond_the_bound_every_second_line_is_held(tmp_path: Path) -> None:
    lines = [f"{number} is a line" for number in range(2 * MOST + 3)]
    path = write(tmp_path / "lines.txt", *lines)
    assert sources(path) == lines[::4]
    assert sources(path, Reading(most=MOST)) == lines[:MOST]
    path.write_text("\n".join([*lines, "\0"]))
    with pytest.raises(UsageError, match=f"line {len(lines) + 1:} of .* is not UTF-8 text"):
        read_texts(path)
