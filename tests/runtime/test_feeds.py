"""Feeds made from the graph alone, and the user's own."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import HeadPruneError, InferenceError, UsageError, prune
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds import generate
from onnxheadprune.runtime.feeds.data import load_data, read_npz
from onnxheadprune.runtime.feeds.generate import FeedMaker, first_that_runs
from onnxheadprune.runtime.feeds.inputs import graph_inputs, read_dim
from onnxheadprune.runtime.feeds.tables import row_bound
from tests.files.unreadable import IMPOSSIBLE
from tests.graph_builder import GraphBuilder
from tests.graph_text import model_of
from tests.graphs import toys
from tests.limits import within
from tests.runtime.feeding import BOOL, F32, I64, feeds_of, graph_with

# Symbols


@pytest.mark.parametrize(
    ("text", "numbers", "value"),
    [
        ("batch", {"batch": 3}, 3),
        ("past_sequence_length + 1", {"past_sequence_length": 4}, 5),
        ("past_sequence_length + sequence_length", {"past_sequence_length": 4, "sequence_length": 7}, 11),
        ("2*s0", {"s0": 3}, 6),
        ("Max(1, s0 - 5)", {"s0": 3}, 1),
        ("max(1, s0 - 5)", {"s0": 3}, 1),
        ("floor(s0/2) + 1", {"s0": 7}, 4),
        ("(s0 - 1)//4", {"s0": 10}, 2),
        ("batch size", {"batch size": 2}, 2),
        ("unk__12", {"unk__12": 2}, 2),
        ("__import__('os')", {"__import__('os')": 9}, 9),
    ],
)
def test_dimensions_are_read_and_evaluated(text: str, numbers: dict[str, int], value: int) -> None:
    expression = read_dim(text)
    assert set(expression.symbols) == set(numbers)
    assert expression.evaluate(numbers) == value


# Values


# Integers stay below the tables they index


def lookup(*steps: tuple[str, list[str], dict[str, Any]], rows: int = 7) -> ModelProto:
    """input_ids through `steps` (which hand on "h") into a table."""
    toy = GraphBuilder()
    toy.constant("two", np.array(2, dtype=np.int64))
    toy.constant("one", np.array(1, dtype=np.int64))
    toy.constant("least", np.array(0, dtype=np.int64))
    toy.constant("axis", np.array([1], dtype=np.int64))
    toy.constant("zero", np.array([0], dtype=np.int64))
    toy.constant("last", np.array([-1], dtype=np.int64))
    toy.constant("all", np.array([True]))
    current = "input_ids"
    for position, (op_type, inputs, attributes) in enumerate(steps):
        names = [current if name == "h" else name for name in inputs]
        current = toy.node(op_type, names, f"step{position}", **attributes)
    toy.node("Gather", [toy.weight("table", rows, 3), current], "y")
    ids = toy.info("input_ids", ["batch", "sequence"], TensorProto.INT64)
    return toy.model([ids], [toy.info("y", [None] * 3)])


@pytest.mark.parametrize(
    ("steps", "bound"),
    [
        ([], 7),
        ([("Cast", ["h"], {"to": I64})], 7),
        ([("Reshape", ["h", "last"], {})], 7),
        ([("Unsqueeze", ["h", "axis"], {}), ("Identity", ["h"], {})], 7),
        ([("Slice", ["h", "zero", "last", "axis"], {})], 7),
        ([("Add", ["h", "two"], {})], 5),
        ([("Add", ["two", "h"], {}), ("Cast", ["h"], {"to": I64})], 5),
        ([("Where", ["all", "h", "two"], {})], 7),
        ([("Max", ["two", "h"], {})], 7),
        ([("Mul", ["one", "h"], {})], 7),
        ([("Clip", ["h", "least"], {})], 7),
        ([("Concat", ["h", "h"], {"axis": 1})], 7),
    ],
)
def test_integers_stay_below_their_table(steps: list[Any], bound: int) -> None:
    model = lookup(*steps)
    view = view_of(model)
    assert row_bound(view.main.values["input_ids"]) == bound
    highest = 0
    for seed in range(10):
        for feed in feeds_of(model, seed):
            highest = max(highest, int(feed["input_ids"].max()))
    assert highest == bound - 1


SCATTERS = {
    "elements": """
      rows = Reshape (place, upright)
      spread = Expand (rows, size)
      y = ScatterElements <axis = 1> (past, spread, new)""",
    "rows": """
      data = Transpose <perm = [1, 0, 2]> (past)
      update = Transpose <perm = [1, 0, 2]> (new)
      rows = Reshape (place, column)
      y = ScatterND (data, rows, update)""",
    "components": """
      rows = Reshape (place, wide)
      spread = Expand (rows, each)
      places = Concat <axis = -1> (zeros, spread)
      update = Reshape (new, updates)
      y = ScatterND (past, places, update)""",
}


@pytest.mark.parametrize("how", SCATTERS)
def test_places_in_a_cache_are_places_that_it_has(how: str) -> None:
    """A static cache of eight tokens is written where an input says, in each way that exporters write it."""
    model = model_of(f"""
    <ir_version: 8, opset_import: ["" : 18]>
    cache (int64[1] place, float[1,8,4] past, float[1,1,4] new) => (float[a,b,c] y)
    < int64[3] upright = {{1, 1, 1}}, int64[3] size = {{1, 1, 4}}, int64[2] column = {{1, 1}},
      int64[3] wide = {{1, 1, 1}}, int64[3] each = {{1, 1, 1}}, int64[1,1,1] zeros = {{0}},
      int64[3] updates = {{1, 1, 4}} >
    {{ {SCATTERS[how]} }}""")
    assert row_bound(view_of(model).main.values["place"]) == 8
    session = Session(model, Provider(CPU, "for the test"))
    for feed in feeds_of(model):
        session.run(feed)


# Larger sizes where the model needs them


def convolution(kernel: int) -> ModelProto:
    toy = GraphBuilder()
    toy.node("Conv", ["x", toy.weight("w", 2, 5, kernel, kernel)], "y")
    shape = ["batch", "channels", "height", "width"]
    return toy.model([toy.info("x", shape)], [toy.info("y", [None] * 4)])


def test_channels_come_from_the_weights_and_images_grow() -> None:
    model = convolution(kernel=30)
    session = Session(model, Provider(CPU, "test"))
    maker = FeedMaker(view_of(model))
    sizes = set()
    for case in maker.cases:
        found = first_that_runs(maker.candidates(case), session.run)
        assert not isinstance(found, InferenceError)
        shape = found[0]["x"].shape
        assert shape[1] == 5
        assert shape[2] == shape[3] >= 30
        sizes.add(shape[2])
    assert len(sizes) > 1


def test_feeds_with_finite_outputs_are_preferred() -> None:
    """A boolean mask may mean "ignore": all True gives NaN in every row of a softmax."""
    toy = GraphBuilder()
    toy.constant("minus_infinity", np.array(-np.inf, dtype=np.float32))
    toy.node("Where", ["key_padding_mask", "minus_infinity", "x"], "masked")
    toy.node("Softmax", ["masked"], "y", axis=-1)
    shape = ["batch", "sequence"]
    model = toy.model(
        [toy.info("x", shape), toy.info("key_padding_mask", shape, BOOL)], [toy.info("y", shape)]
    )
    session = Session(model, Provider(CPU, "test"))
    maker = FeedMaker(view_of(model))
    found = first_that_runs(maker.candidates(maker.cases[0]), session.run)
    assert not isinstance(found, InferenceError)
    assert np.isfinite(found[1]["y"]).all()


def test_inputs_that_no_machine_holds_are_not_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more elements than there is memory for; of more axes than arrays have, no model is read."""
    monkeypatch.setattr(generate, "MAX_ELEMENTS", 2**16)
    model = toys.attention()
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [2**9, 2**9]))
    with pytest.raises(HeadPruneError, match="no random inputs fit the original model"):
        prune(model, tmp_path / "o.onnx", heads="0:1", provider="cpu")
    assert not list(tmp_path.iterdir())


# The user's own data


def inputs_of(model: ModelProto) -> Any:
    return graph_inputs(view_of(model))


IMAGES = graph_with(("x", F32, ["batch", 2, 3]))


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_function_yields_feeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_feeds.py").write_text(
        "import numpy as np\ndef feeds(count=2):\n    for _ in range(count):\n"
        "        yield {'x': np.ones((1, 2, 3), dtype=np.float32)}\n"
        "def breaks():\n    yield {'x': np.ones((1, 2, 3), dtype=np.float32)}\n    raise KeyError('mine')\n"
        "def needs(argument):\n    pass\ndef number():\n    return 3\ndef strings():\n    return ['a']\n"
    )
    monkeypatch.chdir(tmp_path)
    assert len(list(load_data("my_feeds:feeds", inputs_of(IMAGES)))) == 2
    for name, message in {
        "nothing": "cannot be imported",
        "needs": "without arguments",
        "number": "gives no feeds",
        "breaks": r"failed: KeyError\('mine'\)",
        "strings": "feed 0 of .* is no mapping",
    }.items():
        with pytest.raises(UsageError, match=message):
            list(load_data(f"my_feeds:{name}", inputs_of(IMAGES)))


def test_archives_beyond_memory_are_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in ("x.npy", "y.npy"):
            archive.writestr(name, bytes(2**20))
    with (tmp_path / "x.npz").open("wb") as stream:
        stream.seek(2**28)
        stream.write(content.getvalue().replace((2**20).to_bytes(4, "little"), (2**31).to_bytes(4, "little")))
    with pytest.raises(
        UsageError, match=r"4,294,967,295 bytes are unpacked, so give .* a folder of \.npz files"
    ):
        read_npz(tmp_path / "x.npz")


def damaged(path: Path) -> Iterator[Path]:
    np.savez_compressed(path, x=np.arange(5000, dtype=np.float32))
    whole = path.read_bytes()
    for start in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:start] + b"\xff\x00\x13" + whole[start + 3 :])
        yield path


def test_damaged_archives_end_in_a_sentence(tmp_path: Path) -> None:
    refused = 0
    for path in damaged(tmp_path / "x.npz"):
        try:
            read_npz(path)
        except UsageError:
            refused += 1
    assert refused > 20


def test_a_generator_that_never_ends() -> None:
    def endless(length: int) -> Iterator[dict[str, Any]]:
        while True:
            yield {"x": np.zeros((1, length, toys.HIDDEN), np.float32)}

    inputs = inputs_of(toys.attention())
    for length in (2, 20_000):
        with within(10), pytest.raises(UsageError, match=r"yields more than|let it end earlier"):
            next(load_data(endless(length), inputs))
    three = list(load_data(({"x": np.zeros((1, 2, toys.HIDDEN), np.float32)} for _ in range(3)), inputs))
    assert len(three) == 3


@pytest.mark.parametrize("path", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(UsageError, match=r"does not exist|cannot be read"):
        list(load_data(path, inputs_of(IMAGES)))
