"""Feeds made from the graph alone, and the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from onnxheadprune import InferenceError, UsageError
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.data import load_data
from onnxheadprune.runtime.feeds.generate import FeedMaker, first_that_runs
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.runtime.feeds.symbols import read_dim
from onnxheadprune.runtime.feeds.tables import row_bound
from tests.feeding import BOOL, F32, I64, feeds_of, graph_with
from tests.graph_builder import GraphBuilder
from tests.graph_text import model_of
from tests.graphs import toys


def decoder() -> ModelProto:
    """The inputs of a text decoder as Optimum names them."""
    past, total = "past_sequence_length", "past_sequence_length + sequence_length"
    return graph_with(
        ("input_ids", I64, ["batch_size", "sequence_length"]),
        ("attention_mask", I64, ["batch_size", total]),
        ("position_ids", I64, ["batch_size", "sequence_length"]),
        ("past_key_values.0.key", F32, ["batch_size", 2, past, 8]),
        ("past_key_values.0.value", F32, ["batch_size", 2, past, 8]),
        ("use_cache_branch", BOOL, [1]),
    )


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


def test_one_symbol_is_one_number() -> None:
    for feed in feeds_of(decoder()):
        batch, sequence = feed["input_ids"].shape
        past = feed["past_key_values.0.key"].shape[2]
        assert feed["attention_mask"].shape == (batch, past + sequence)
        assert feed["position_ids"].shape == (batch, sequence)
        assert feed["past_key_values.0.key"].shape == (batch, 2, past, 8)


def test_symbols_that_an_exporter_did_not_relate() -> None:
    """torch's dynamo exporter may name every axis apart: s15, s41, s22, ..."""
    model = graph_with(
        ("input_ids", I64, ["s15", "s41"]),
        ("attention_mask", I64, ["s15", "s22"]),
        ("past_key_values.0.key", F32, ["s15", 4, "s8", 8]),
        ("past_key_values.0.value", F32, ["s15", 4, "s61", 8]),
    )
    for feed in feeds_of(model):
        past = feed["past_key_values.0.key"].shape[2]
        assert feed["past_key_values.0.value"].shape[2] == past
        assert feed["attention_mask"].shape[1] == feed["input_ids"].shape[1] + past


def test_a_cache_of_all_layers_has_the_batch_further_inside() -> None:
    """One tensor of layers, keys and values: no feed has no samples because the cache is empty."""
    model = graph_with(("input_ids", I64, ["s15", "s41"]), ("past", F32, [2, 2, "s15", 4, "s8", 8]))
    for feed in feeds_of(model):
        batch = feed["input_ids"].shape[0]
        assert batch > 0 and feed["past"].shape[2] == batch


def test_sizes_differ_between_cases_and_axes() -> None:
    feeds = feeds_of(graph_with(("a", F32, ["batch", "m", 5]), ("b", F32, ["batch", "n", 5])))
    shapes = [(feed["a"].shape, feed["b"].shape) for feed in feeds]
    assert len(set(shapes)) == 4
    assert all(a[1] != b[1] for a, b in shapes)
    assert {a[0] for a, _ in shapes} == {1, 2, 3}


def test_unnamed_dimensions_agree_by_axis() -> None:
    model = graph_with(("input_ids", I64, [None, None]), ("attention_mask", I64, [None, None]))
    for feed in feeds_of(model):
        assert feed["input_ids"].shape == feed["attention_mask"].shape


def test_fixed_dimensions_are_respected() -> None:
    feeds = feeds_of(graph_with(("x", F32, [1, 3, 24, 24])))
    assert {feed["x"].shape for feed in feeds} == {(1, 3, 24, 24)}
    assert not np.array_equal(feeds[0]["x"], feeds[1]["x"])


# Values


def test_a_seed_is_a_feed() -> None:
    first, same, other = feeds_of(decoder(), 1)[0], feeds_of(decoder(), 1)[0], feeds_of(decoder(), 2)[0]
    name = "past_key_values.0.key"
    assert np.array_equal(first[name], same[name])
    assert not np.array_equal(first[name], other[name])


def test_masks_are_ones_and_two_feeds_are_padded() -> None:
    masks = [feed["attention_mask"] for feed in feeds_of(decoder())]
    padded = [mask for mask in masks if (mask == 0).any()]
    assert len(padded) == 2
    mask, left = padded
    assert not left[:, 0].any() and left[:, -1].all()
    assert all((np.diff(row) < 0).any() for row in left), "a hole in every row"
    assert mask[:, 0].all()
    assert all((np.diff(row) <= 0).all() for row in mask)
    assert set(np.unique(mask.sum(axis=1))) > {mask.shape[1] - 1}


def test_positions_continue_the_cache() -> None:
    for feed in feeds_of(decoder()):
        past = feed["past_key_values.0.key"].shape[2]
        sequence = feed["input_ids"].shape[1]
        assert np.array_equal(feed["position_ids"][-1], np.arange(past, past + sequence))


def test_flags_alternate_with_the_cache() -> None:
    feeds = feeds_of(decoder())
    flags = [bool(feed["use_cache_branch"][0]) for feed in feeds]
    assert set(flags) == {True, False}
    assert all(
        feed["past_key_values.0.key"].shape[2] == 0
        for feed, flag in zip(feeds, flags, strict=True)
        if not flag
    )


def test_one_case_is_a_decode_step() -> None:
    assert any(feed["input_ids"].shape[1] == 1 for feed in feeds_of(decoder()))


@pytest.mark.parametrize("name", ["FLOAT16", "BFLOAT16", "DOUBLE", "INT32", "UINT8", "INT8"])
def test_types_are_kept(name: str) -> None:
    elem_type = getattr(TensorProto, name)
    (feed, *_) = feeds_of(graph_with(("x", elem_type, ["batch", 4])))
    assert feed["x"].dtype == onnx.helper.tensor_dtype_to_np_dtype(elem_type)


def test_initializers_that_are_inputs_are_not_fed() -> None:
    model = toys.attention()
    tensor = model.graph.initializer[1]
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
    )
    assert [item.name for item in graph_inputs(view_of(model))] == ["x"]


def test_text_inputs_are_named() -> None:
    with pytest.raises(UsageError, match="input 'texts' is no tensor of numbers"):
        graph_inputs(view_of(graph_with(("texts", TensorProto.STRING, ["batch"]))))


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


def test_what_is_added_to_negative_numbers_alone_moves_no_bound() -> None:
    """`where(p < 0, p + 7, p)`: numbers that count from the end of the table."""
    steps = [("Add", ["input_ids", "two"], {}), ("Where", ["all", "h", "input_ids"], {})]
    assert row_bound(view_of(lookup(*steps, rows=2)).main.values["input_ids"]) == 2
    assert row_bound(view_of(lookup(*steps, rows=7)).main.values["input_ids"]) == 5


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


def test_a_comparison_gives_no_row_of_the_same_table() -> None:
    model = lookup(("Greater", ["h", "two"], {}), ("Cast", ["h"], {"to": I64}), rows=2)
    assert row_bound(view_of(model).main.values["input_ids"]) is None


def test_the_smallest_table_counts() -> None:
    model = lookup(rows=7)
    toy = GraphBuilder()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((4, 3), dtype=np.float32), "small"))
    model.graph.node.append(onnx.helper.make_node("Gather", ["small", "input_ids"], ["z"], name="z"))
    model.graph.output.append(toy.info("z", [None] * 3))
    assert row_bound(view_of(model).main.values["input_ids"]) == 4


def test_integers_of_no_table_are_zero_or_one() -> None:
    (feed, *_) = feeds_of(graph_with(("token_type_ids", I64, ["batch", "sequence"])))
    assert set(np.unique(feed["token_type_ids"])) <= {0, 1}


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


def test_text_never_grows_far() -> None:
    maker = FeedMaker(view_of(graph_with(("input_ids", I64, ["batch", "sequence"]))))
    assert max(feed["input_ids"].shape[1] for feed, _ in maker.candidates(maker.cases[0])) <= 64


def test_sound_grows_to_a_second_at_most() -> None:
    maker = FeedMaker(view_of(graph_with(("input_values", F32, ["batch", "samples"]))))
    assert max(feed["input_values"].shape[1] for feed, _ in maker.candidates(maker.cases[0])) == 16000


def test_a_model_that_runs_on_nothing_gives_its_first_error() -> None:
    def never(_: Any) -> Any:
        raise InferenceError("no")

    maker = FeedMaker(view_of(decoder()))
    assert isinstance(first_that_runs(maker.candidates(maker.cases[0]), never), InferenceError)


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


# The user's own data


def inputs_of(model: ModelProto) -> Any:
    return graph_inputs(view_of(model))


TEXT = graph_with(("input_ids", I64, ["batch", "sequence"]), ("attention_mask", I64, ["batch", "sequence"]))
IMAGES = graph_with(("x", F32, ["batch", 2, 3]))
PAIRS = graph_with(("x", F32, [4, 2, 3]))


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    ("model", "axis"),
    [
        (IMAGES, 0),
        (graph_with(("x", F32, ["sequence", "batch", 3])), 1),
        (graph_with(("x", F32, [2, 3, "batch_size"])), 2),
        (graph_with(("x", F32, ["samples", "words", "batch * heads"])), 0),
    ],
)
def test_npz_is_read_in_batches(tmp_path: Path, model: ModelProto, axis: int) -> None:
    x = np.moveaxis(np.arange(70 * 6, dtype=np.float32).reshape(70, 2, 3), 0, axis)
    path = write(tmp_path / "d.npz", x=x, labels=np.arange(70), other=np.zeros(3))
    samples = list(load_data(path, inputs_of(model)))
    assert [sample.feed["x"].shape[axis] for sample in samples] == [32, 32, 6]
    assert np.array_equal(np.concatenate([sample.feed["x"] for sample in samples], axis), x)
    labels = [sample.labels for sample in samples]
    assert np.array_equal(np.concatenate([item for item in labels if item is not None]), np.arange(70))
    assert all(set(sample.feed) == {"x"} for sample in samples)


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)
    path = write(tmp_path / "d.npz", x=x, labels=np.arange(6))
    first, second = load_data(path, inputs_of(PAIRS))
    assert second.feed["x"].shape == (4, 2, 3)
    assert first.labels is not None
    assert second.labels is not None
    assert list(second.labels) == [4, 5, -100, -100]


def test_a_folder_holds_one_feed_per_file(tmp_path: Path) -> None:
    for position in range(2):
        shape = (1 + position, 5)
        ids = np.zeros(shape, dtype=np.int64)
        write(tmp_path / f"{position}.npz", input_ids=ids, attention_mask=ids + 1)
    assert [sample.feed["input_ids"].shape for sample in load_data(tmp_path, inputs_of(TEXT))] == [
        (1, 5),
        (2, 5),
    ]


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


def test_feeds_in_memory() -> None:
    def generate() -> Iterator[dict[str, Any]]:
        yield {"x": np.ones((1, 2, 3), dtype=np.float64)}

    (sample,) = load_data(generate(), inputs_of(IMAGES))
    assert sample.feed["x"].dtype == np.float32


GOOD = np.ones((4, 2, 3), dtype=np.float32)


def test_unreadable_data_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "single.npy", GOOD)
    write(tmp_path / "broken.npz", x=np.random.default_rng(0).standard_normal(500))
    damaged = bytearray((tmp_path / "broken.npz").read_bytes())
    damaged[1000:1100] = bytes(100)
    (tmp_path / "broken.npz").write_bytes(damaged)
    pickled = np.array([{}], dtype=object)
    np.savez(tmp_path / "pickled.npz", x=pickled)
    (tmp_path / "empty").mkdir()
    for source, message in {
        "text.npz": "is no .npz file",
        "broken.npz": "cannot be read as an .npz file",
        "pickled.npz": "cannot be read as an .npz file",
        "single.npy": "is no .npz file",
        "empty": "holds no feed",
        "missing.npz": "does not exist",
    }.items():
        with pytest.raises(UsageError, match=message):
            list(load_data(tmp_path / source, inputs_of(IMAGES)))


def test_keys_and_values_in_one_cache_have_their_batch_on_axis_one() -> None:
    """What leads another input is no length of a cache, wherever it stands in the cache."""
    packed = graph_with(("x", F32, ["b", "s", 4]), ("past", F32, [2, "b", 2, "p", 8]))
    for feed in feeds_of(packed):
        assert feed["x"].shape[0] == feed["past"].shape[1] > 0


# Constant indices


PICKS = {
    "Gather": "x{at} = Gather<axis = 1>(x, i{at})",
    "Gather from the end": "x{at} = Gather<axis = 1>(x, last{at})",
    "Slice": "x{at} = Slice(x, i{at}, end{at}, axis)",
    "Slice, negative axis": "x{at} = Slice(x, i{at}, end{at}, from_end)",
}


def unrolled(pick: str, steps: int, whole: bool) -> ModelProto:
    """A recurrence that was traced step by step, as that of a state space model; `whole` fixes the length, too."""
    lines = [
        f"""i{at} = Constant<value_ints = [{at}]>()
            end{at} = Constant<value_ints = [{at + 1}]>()
            last{at} = Constant<value_ints = [{at - steps}]>()
            {PICKS[pick].format(at=at)}
            h{at} = {f"Mul(h{at - 1}, x{at})" if at else "Tanh(x0)"}"""
        for at in range(steps)
    ]
    states = ", ".join(f"h{at}" for at in range(steps))
    end = f"all = Concat<axis = 1>({states})\ny = Add(x, all)" if whole else f"y = Add(x, h{steps - 1})"
    return model_of(
        f"""
        <ir_version: 9, opset_import: ["" : 17]>
        scan (float[batch,length,8] x) => (float[batch,length,8] y) <int64[1] axis = {{1}}, int64[1] from_end = {{-2}}>
        {{
            {" ".join(lines)}
            {end}
        }}
        """
    )


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("steps", [6, 12, 23, 100])
@pytest.mark.parametrize("pick", PICKS)
def test_lengths_are_those_that_constant_indices_need(pick: str, steps: int, whole: bool) -> None:
    model = unrolled(pick, steps, whole)
    maker = FeedMaker(view_of(model))
    session = Session(model, Provider(CPU, "for the test"))
    for case in maker.cases:
        found = maker.first_that_runs(case, session.run)
        assert not isinstance(found, InferenceError), found
        feed, outputs = found
        length = feed["x"].shape[1]
        assert length == steps if whole else length >= steps
        assert outputs["y"].shape == feed["x"].shape
