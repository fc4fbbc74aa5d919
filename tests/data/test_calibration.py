"""Calibration data: every form is read, bad data is refused before any long work, and moments are right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto
from PIL import Image

from onnxheadprune import Calibration, UsageError
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.drift import token_rows
from onnxheadprune.data.images import Preprocessing, image_feeds, normalisation_in
from onnxheadprune.data.more import Feeds
from onnxheadprune.data.sources import files_read, read_data
from onnxheadprune.data.text import text_feeds
from onnxheadprune.deploying.folders.types import reader_of
from onnxheadprune.model.load import load_model
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.data import load_data
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


def test_padding_is_left_out(bert: tuple[Input, ...]) -> None:
    array = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    feed = {"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.array([[1, 1, 0], [1, 0, 0]])}
    assert token_rows(array, (2,), feed, bert).tolist() == [*array[0, :2].tolist(), array[1, 0].tolist()]


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


def made(feeds: int, rows: int = 4) -> Calibration:
    return toys.parts(toys.stack(layers=1), toys.ids(feeds, rows))[2]


@pytest.mark.parametrize("feeds", [2, 3, 5, 8, 21])
def test_a_split_is_disjoint_whole_and_spread(feeds: int) -> None:
    data = made(feeds)
    learn, held = data.split()
    kept, apart = ({id(sample) for sample in part.samples} for part in (learn, held))
    assert not kept & apart and len(kept | apart) == feeds
    assert len(apart) == max(1, round(feeds * 0.2))
    assert learn.fingerprint == held.fingerprint == data.fingerprint


def test_data_of_one_feed_is_halved_so_that_a_part_can_be_held_out() -> None:
    data = made(1, rows=7)
    assert [len(feed["input_ids"]) for feed in data.feeds] == [4, 3]
    single = made(1, rows=1)
    learn, held = single.split()
    assert len(single.samples) == 1 and learn.samples == held.samples


def test_samples_apart_are_the_same_samples_with_their_labels() -> None:
    view = view_of(toys.stack())
    feeds = [{**feed, "labels": np.arange(len(feed["input_ids"]))} for feed in toys.ids(3)]
    data = calibration_data(feeds, view)
    ones = data.apart()
    assert len(ones) == ones.count == data.count > len(data)
    whole = np.concatenate([feed["input_ids"] for feed in data.feeds])
    np.testing.assert_array_equal(np.concatenate([feed["input_ids"] for feed in ones.feeds]), whole)
    labels = [sample.labels for sample in ones]
    assert [None if item is None else item.tolist() for item in labels] == [
        [row] for feed in feeds for row in range(len(feed["input_ids"]))
    ]


def test_a_subset_has_whole_feeds_and_no_more_than_asked_for() -> None:
    data = made(10)
    assert data.count == 40 and data.subset(40) is data
    assert data.subset(12).samples == tuple(data.samples[position] for position in (1, 4, 8))


@pytest.mark.parametrize("most", range(1, 100, 7))
def test_a_subset_of_sorted_texts_has_their_median_length(most: int) -> None:
    view = view_of(toys.stack())
    lengths = [2, 3, 4, 5, 6, 7, 8, 9, 10, 60]
    data = calibration_data([{"input_ids": np.ones((10, length), np.int64)} for length in lengths], view)
    middle = np.median(lengths)
    for part in (data.subset(most), *data.split(0.3)[1:], data.split_samples(most)[1]):
        assert abs(np.median([feed["input_ids"].shape[1] for feed in part.feeds]) - middle) <= 1.5


def test_the_fingerprint_is_of_the_numbers_alone(digits: Path, tmp_path: Path) -> None:
    view = view_of(load_model(digits))
    images = np.random.default_rng(0).random((40, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "a.npz", images=images)
    first, second = (calibration_data(source, view) for source in (tmp_path / "a.npz", {"images": images}))
    assert first.fingerprint == second.fingerprint
    images[3, 0, 1, 2] += 1e-3
    assert calibration_data({"images": images}, view).fingerprint != first.fingerprint


def test_labels_go_along(digits: Path) -> None:
    data = calibration_data(
        {"images": np.zeros((64, 1, 8, 8), np.float32), "labels": np.arange(64)}, view_of(load_model(digits))
    )
    again = list(load_data(data, data.inputs))
    assert [sample.labels[0] for sample in again if sample.labels is not None] == [0, 32]


# Text


def test_text_becomes_padded_feeds_with_a_mask(bert: tuple[Input, ...], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("w1 w2 w3\n\nw4\n  w5 w6  \n", encoding="utf-8")
    (feed,) = text_feeds(text, tokenizer(tmp_path), bert)
    assert feed["input_ids"].tolist() == [[5, 0, 0], [6, 7, 0], [2, 3, 4]]
    assert feed["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert feed["input_ids"].dtype == np.int64


def test_long_lines_are_cut_and_feeds_have_their_size(bert: tuple[Input, ...], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join("w1 " * (1 + count % 7) for count in range(49)), encoding="utf-8")
    feeds = text_feeds(text, tokenizer(tmp_path), bert, max_length=4)
    assert [feed["input_ids"].shape for feed in feeds] == [(32, 4), (17, 4)]


def test_without_a_mask_only_equal_lengths_share_a_feed(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("w1 w2\nw3\nw4 w5\nw6\n", encoding="utf-8")
    feeds = text_feeds(text, tokenizer(tmp_path, 12), inputs_of(toys.stack(layers=1)))
    assert [feed["input_ids"].tolist() for feed in feeds] == [[[4], [7]], [[2, 3], [5, 6]]]


# Pictures


def test_pictures_are_scaled_and_normalised(digits: Path, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures")
    how = Preprocessing(mean=(0.25,), std=(2.0,))
    feeds = image_feeds(folder, inputs_of(digits), how, batch=2)
    assert [feed["images"].shape for feed in feeds] == [(2, 1, 8, 8), (1, 1, 8, 8)]
    with Image.open(folder / "class0" / "0.png") as image:
        expected = (np.asarray(image.convert("L"), dtype=np.float32) / 255 - 0.25) / 2
    np.testing.assert_allclose(feeds[0]["images"][0, 0], expected, rtol=1e-6)


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
        data = reader_of(tmp_path / "repository", running)(load_model(model))
    else:
        data = read_data(model, running)
    assert isinstance(data, Feeds)
    read = fields is not None and len(options) < 2
    files = files_read(model if place != "folder" else tmp_path / "repository", running)
    assert any(path.endswith("preprocessor_config.json") for path in files.values()) == read
    with Image.open(tmp_path / "pictures" / "class0" / "0.png") as image:
        pixels = np.asarray(image.convert("L"), dtype=np.float32) / 255
    np.testing.assert_allclose(
        next(iter(data))["images"][0, 0], (pixels - expected[0]) / expected[1], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("mean", [[], ["a"], None, [True], {"a": 1}])
def test_a_normalisation_that_is_none_is_refused(mean: Any, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": [1.0]}))
    with pytest.raises(UsageError, match="image_mean or image_std that is no list of numbers"):
        normalisation_in(tmp_path)


# Bad data: one sentence and exit code 2, before anything is measured


def good(rows: int = 64) -> dict[str, Any]:
    return {"images": np.random.default_rng(0).random((rows, 1, 8, 8)).astype(np.float32)}


def with_nan(data: dict[str, Any]) -> dict[str, Any]:
    data["images"][5, 0, 2, 3] = np.nan
    return data


BAD = {
    "NaN": (with_nan(good()), "NaN or infinite"),
    "shape": ({"images": np.zeros((64, 1, 8, 9), np.float32)}, "the model's input is float32"),
    "dtype": ({"images": np.zeros((64, 1, 8, 8), np.int64)}, "convert it first"),
    "name": ({"pixels": np.zeros((64, 1, 8, 8), np.float32)}, "lacks the input images"),
    "empty": ({"images": np.zeros((0, 1, 8, 8), np.float32)}, "empty"),
    "few": (good(1), "are too few for linear layers with 64 inputs: about"),
}


@pytest.mark.each_choice
@pytest.mark.parametrize("verb", ["score", "prune"])
@pytest.mark.parametrize("what", BAD)
def test_bad_data_is_refused_at_once(
    what: str, verb: str, command: Command, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args: Any, **_settings: Any) -> None:
        raise AssertionError("long work began")

    for where in ("choosing.measured.measured_paths", "workflow.choice.cutting.compensate"):
        monkeypatch.setattr(f"onnxheadprune.{where}", never)
    arrays, why = BAD[what]
    path, out = tmp_path / "data.npz", tmp_path / ("out.json" if verb == "score" else "out.onnx")
    np.savez(path, **arrays)
    options = ["--ratio", "0.5"] if verb == "prune" else []
    outcome = command(verb, digits, "--data", path, "-o", out, *options, "--provider", "cpu")
    assert outcome.exit_code == 2 and why in " ".join(outcome.stderr.split())
    assert "Traceback" not in outcome.stderr and not out.exists()


def test_numbers_that_overflow_inside_the_model_are_refused(command: Command, tmp_path: Path) -> None:
    model = toys.attention()
    toys.set_initializer(model, "attn.v.weight", np.full((12, 16), 1e38, np.float32))
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.arange(1, 577, dtype=np.float32).reshape(8, 6, 12))
    outcome = command("score", tmp_path / "model.onnx", "--data", tmp_path / "data.npz", "--provider", "cpu")
    assert outcome.exit_code == 2 and "computes NaN or infinite values" in " ".join(outcome.stderr.split())
