"""What a decoder is fed for a prompt: empty caches, masks over past and present, positions, lengths, flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxheadprune import UsageError
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.text import text_data
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.inputs import Input, graph_inputs
from tests.calibration_files import tokenizer
from tests.graph_builder import GraphBuilder
from tests.graphs import toys
from tests.runtime.feeding import graph_with

I64, I32, F32, BOOL = TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT, TensorProto.BOOL
BATCH, LENGTH, PAST = "batch_size", "sequence_length", "past_sequence_length"
TOTAL = f"{PAST} + {LENGTH}"
IDS = ("input_ids", I64, [BATCH, LENGTH])
MASK = ("attention_mask", I64, [BATCH, TOTAL])
KEY = ("past_key_values.0.key", F32, [BATCH, 2, PAST, 8])


def inputs_of(*inputs: tuple[str, int, list[Any]]) -> tuple[Input, ...]:
    """The inputs of a model that runs on anything."""
    return graph_inputs(view_of(graph_with(*inputs)))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("w1 w2 w3\nw4\nw5 w6\n", encoding="utf-8")
    tokenizer(tmp_path)
    return path


# Text


FOLLOWING: dict[str, tuple[tuple[str, int, list[Any]], Any]] = {
    "flag": (("use_cache_branch", BOOL, [1]), [False]),
    "scalar flag": (("use_cache_branch", BOOL, []), False),
    "positions that all share": (("cache_position", I64, [LENGTH]), [0, 1, 2]),
    "positions in three directions": (
        ("position_ids", I64, [3, BATCH, LENGTH]),
        [[[0, 0, 0], [0, 1, 0], [0, 1, 2]]] * 3,
    ),
    "all logits": (("num_logits_to_keep", I64, []), 0),
    "last keys": (("seqlens_k", I32, [BATCH]), [0, 1, 2]),
    "total": (("total_sequence_length", I32, [1]), [3]),
    "scalar total": (("total_sequence_length", I32, []), 3),
    "past": (("past_sequence_length", I64, [1]), [0]),
    "lengths": (("input_lengths", I64, [BATCH]), [1, 2, 3]),
    "types": (("token_type_ids", I64, [BATCH, LENGTH]), [[0, 0, 0]] * 3),
    "state of one size": (("cache.conv", F32, [BATCH, 1, 2]), [[[0.0, 0.0]]] * 3),
}


@pytest.mark.parametrize("name", FOLLOWING)
def test_what_follows_from_tokens(name: str, text: Path) -> None:
    extra, wanted = FOLLOWING[name]
    # What all samples of a batch share keeps others than those of one length apart.
    feed = text_data(text, text.parent, inputs_of(IDS, MASK, KEY, extra)).feeds[-1]
    assert feed[extra[0]].tolist() == wanted
    assert feed[extra[0]].dtype == onnx.helper.tensor_dtype_to_np_dtype(extra[1])


def test_texts_that_are_too_long_for_the_positions(text: Path) -> None:
    toy = GraphBuilder()
    toy.node("Gather", [toy.weight("places", 2, 3), "position_ids"], "y")
    rows = [toy.info(name, [BATCH, LENGTH], I64) for name in ("input_ids", "attention_mask", "position_ids")]
    inputs = graph_inputs(view_of(toy.model(rows, [toy.info("y", [None] * 3)])))
    assert [feed["input_ids"].shape for feed in text_data(text, text.parent, inputs).feeds] == [(3, 2)]
    with pytest.raises(
        UsageError, match=r"a text has 3 tokens, and the model knows 2 positions.*max_length=2"
    ):
        text_data(text, text.parent, inputs, max_length=3)


def test_logits_of_a_prompt_are_those_of_the_sequence_alone(text: Path) -> None:
    """Padding and company in a batch change nothing: the model is run by hand on one sequence after another."""
    model = toys.attention(cache=True, ids=True)
    session = Session(model, Provider(CPU, "test"))
    feeds = text_data(text, text.parent, graph_inputs(view_of(model))).feeds
    assert sorted(feed["input_ids"].shape for feed in feeds) == [(1, 1), (1, 2), (1, 3)]
    empty = np.zeros((1, toys.HEADS, 0, toys.HEAD_SIZE), np.float32)
    for feed in feeds:
        by_hand = {"input_ids": feed["input_ids"], "past_key": empty, "past_value": empty}
        np.testing.assert_array_equal(session.run(feed)["y"], session.run(by_hand)["y"])


# The user's own data


TOKENS = np.arange(70 * 4).reshape(70, 4) % 2


def test_one_batch_with_a_flag_is_divided() -> None:
    model = graph_with(IDS, ("use_cache_branch", BOOL, [1]), ("position_ids", I64, [3, BATCH, LENGTH]))
    model.graph.node[0].input[0] = "input_ids"
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", I64, [BATCH, LENGTH]))
    view = view_of(model)
    places = np.arange(3 * 7 * 4).reshape(3, 7, 4)
    given = [{"input_ids": TOKENS[:7], "use_cache_branch": np.array([False]), "position_ids": places}]
    data = calibration_data(given, view)
    learn, held = (part.feeds[0] for part in data.split(3 / 7))
    assert [len(feed["input_ids"]) for feed in (learn, held)] == [4, 3] and data.count == 7
    assert np.array_equal(held["position_ids"], places[:, 2:5]) and not held["use_cache_branch"].any()


# Random feeds
