"""Calibration data: every form is read, bad data is refused before any long work, and moments are right."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from PIL import Image

from onnxheadprune import Calibration
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.drift import token_rows
from onnxheadprune.data.sources import files_read, read_data, with_own_tokenizer
from onnxheadprune.data.text import text_data
from onnxheadprune.model.load import load_model
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import Input, graph_inputs
from onnxheadprune.settings.inputs import Running
from tests.calibration_files import pictures, tokenizer
from tests.conftest import Command
from tests.graphs import toys


def inputs_of(path: Path | ModelProto) -> tuple[Input, ...]:
    return graph_inputs(view_of(load_model(path)))


@pytest.fixture
def bert(tiny: Path) -> tuple[Input, ...]:
    return inputs_of(tiny / "bert-dynamo-sdpa.onnx")


# Rows of activations


def test_feature_axes_come_last_in_their_order_and_a_mask_of_another_shape_is_no_padding(
    bert: tuple[Input, ...],
) -> None:
    array = np.random.default_rng(0).standard_normal((2, 3, 5, 4)).astype(np.float16)
    feed = {"input_ids": np.ones((2, 5), np.int64), "attention_mask": np.zeros((2, 5), np.int64)}
    rows = token_rows(array, (3, 1), feed, bert)
    assert rows.dtype == np.float32 and rows.shape == (0, 12)
    feed["attention_mask"] = np.zeros((2, 9), np.int64)
    rows = token_rows(array, (3, 1), feed, bert)
    np.testing.assert_array_equal(rows, array.transpose(0, 2, 3, 1).reshape(10, 12).astype(np.float32))


# Parts


def test_batches_are_no_larger_than_those_given_and_labels_go_along() -> None:
    """What a model does may depend on which samples share a batch, as that of an early exit."""
    view = view_of(toys.stack())
    feeds = [{**feed, "labels": np.arange(len(feed["input_ids"]))} for feed in toys.ids(3)]
    data = calibration_data(feeds, view)
    assert len(data.samples) == data.count == 24 and data.most == len(data.feeds[0]["input_ids"]) == 8
    for some in (data, data.subset(10), *data.split()):
        assert max(len(feed["input_ids"]) for feed in some.feeds) <= 8
    for batch, feed in zip(data, feeds, strict=True):
        assert np.array_equal(batch.feed["input_ids"], feed["input_ids"])
        assert batch.labels is not None and np.array_equal(batch.labels, feed["labels"])
    assert [len(feed["input_ids"]) for feed in replace(data, most=1).feeds] == [1] * 24


# Text


def test_without_a_mask_only_equal_lengths_share_a_feed(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("w1 w2\nw3\nw4 w5\nw6\n", encoding="utf-8")
    feeds = text_data(text, tokenizer(tmp_path, 12), inputs_of(toys.stack(layers=1))).feeds
    assert [feed["input_ids"].tolist() for feed in feeds] == [[[4], [7]], [[2, 3], [5, 6]]]


# Pictures


@pytest.mark.parametrize(
    ("fields", "options", "expected"),
    [
        ({"image_mean": [0.25], "image_std": [2.0]}, {}, (0.25, 2.0)),
        ({"image_mean": 0.25, "image_std": 2}, {}, (0.25, 2.0)),
        ({"image_mean": [0.25], "image_std": [2.0]}, {"image_std": (4.0,)}, (0.25, 4.0)),
        ({"image_mean": [0.25], "image_std": [2.0], "do_normalize": False}, {}, (0.0, 1.0)),
        ({"size": {"height": 8}}, {}, (0.5, 0.5)),
        (None, {}, (0.5, 0.5)),
    ],
)
@pytest.mark.parametrize("place", ["beside", "around", "folder"])
def test_normalisation_is_that_of_the_model(
    fields: Any, options: Any, expected: tuple[float, float], place: str, digits: Path, tmp_path: Path
) -> None:
    """Beside the file, in the repository around its folder `onnx`, or in the folder that is pruned."""
    model = tmp_path / "repository" / {"around": "onnx", "folder": "vision"}.get(place, ".") / "model.onnx"
    model.parent.mkdir(parents=True)
    shutil.copy(digits, model)
    if fields is not None:
        (tmp_path / "repository" / "preprocessor_config.json").write_text(json.dumps(fields))
    running = Running(data=str(pictures(tmp_path / "pictures")), **options)
    if place == "folder":
        own = with_own_tokenizer(tmp_path / "repository", running)
        data = read_data(load_model(model), own, in_folder=True)
    else:
        data = read_data(model, running)
    assert isinstance(data, Calibration)
    read = fields is not None and len(options) < 2
    files = files_read(model if place != "folder" else tmp_path / "repository", running)
    assert any(path.endswith("preprocessor_config.json") for path in files.values()) == read
    with Image.open(tmp_path / "pictures" / "class0" / "0.png") as image:
        pixels = np.asarray(image.convert("L"), dtype=np.float32) / 255
    np.testing.assert_allclose(
        data.feeds[0]["images"][0, 0], (pixels - expected[0]) / expected[1], rtol=1e-5, atol=1e-6
    )


# Bad data


def some(rows: int = 64, cut: int = 8, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(0).random((rows, 1, 8, cut)).astype(dtype)


def test_numbers_that_overflow_inside_the_model_are_refused(command: Command, tmp_path: Path) -> None:
    model = toys.attention()
    toys.set_initializer(model, "attn.v.weight", np.full((12, 16), 1e38, np.float32))
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.arange(1, 577, dtype=np.float32).reshape(8, 6, 12))
    outcome = command("score", tmp_path / "model.onnx", "--data", tmp_path / "data.npz", "--provider", "cpu")
    assert outcome.exit_code == 2 and "computes NaN or infinite values" in " ".join(outcome.stderr.split())
