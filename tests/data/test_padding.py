"""Padding counts in no figure: the same samples with masked positions behind them give the same numbers everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from onnxheadprune.data.drift import counted
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from tests import attacks
from tests.graphs import toys

CLASSES = 5
WORDS = ("drift", "accuracy", "refit", "loss", "curve", "cosine", "points", "scores")
"""Parts of a document's keys below which all numbers are figures on outputs or activations."""
NO_FIGURES = ("seconds", "speed", "elements", "parameters", "size", "bytes")


def model(kind: str) -> ModelProto:
    """Attention over tokens with a mask, whose output is a hidden state or logits of each token."""
    made = attacks.text_model()
    if kind == "logits":
        toys_head = np.random.default_rng(5).standard_normal((toys.HIDDEN, CLASSES)).astype(np.float32)
        attacks.add_constant(made, "head", toys_head)
        made.graph.node.append(helper.make_node("MatMul", ["y", "head"], ["logits"]))
        del made.graph.output[:]
        shape = ["batch", "sequence", CLASSES]
        made.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape))
    return made


def figures(document: Any, path: str = "", within: bool = False) -> Iterator[tuple[str, float]]:
    """The numbers of a document below keys that name figures."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            if not any(word in key for word in NO_FIGURES):
                inside = within or any(word in key for word in WORDS)
                yield from figures(value, f"{path}/{key}", inside)
    elif isinstance(document, list):
        for place, value in enumerate(document):
            yield from figures(value, f"{path}/{place}", within)
    elif within and isinstance(document, int | float) and not isinstance(document, bool):
        yield path, document


def test_a_mask_of_cached_tokens_ends_with_the_positions() -> None:
    whole = toys.attention(ids=True, cache=True)
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "all"])
    whole.graph.input.append(mask)
    inputs = graph_inputs(view_of(whole))
    past = {
        item.name: np.zeros((2, toys.HEADS, 3, toys.HEAD_SIZE), np.float32)
        for item in inputs
        if item.is_cache
    }
    feed = past | {"attention_mask": np.array([[1, 0, 1, 1, 0], [0, 0, 0, 1, 1]])}
    assert past
    known = counted((2, 2), feed, inputs)
    assert known is not None and known.tolist() == [[True, False], [True, True]]
    assert counted((2, 4), feed, inputs) is None
