"""Padding counts in no figure: the same samples with masked positions behind them give the same numbers everywhere."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from onnxheadprune import prune, quantize, score, sweep, validate
from onnxheadprune.data.drift import counted
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.settings.registry import WITHOUT_DATA, methods_of
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


def batches(padding: int) -> list[dict[str, Any]]:
    """Batches of samples with labels, each with so many masked positions behind."""
    rng, found = np.random.default_rng(0), []
    for length in (4, 7, 5, 6, 8, 9, 4, 7):
        ids, labels = (rng.integers(0, top, (3, length)) for top in (toys.VOCABULARY, CLASSES))
        behind = np.random.default_rng(length).integers(0, CLASSES, (3, padding))
        mask = np.ones((3, length), np.int64)
        found.append(
            {
                "input_ids": np.concatenate([ids, behind], axis=1),
                "attention_mask": np.concatenate([mask, np.zeros_like(behind)], axis=1),
                "labels": np.concatenate([labels, behind], axis=1),
            }
        )
    return found


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


@functools.cache
def refitted(kind: str) -> tuple[ModelProto, ModelProto]:
    whole = model(kind)
    cut = prune(whole, ratio=0.5, data=batches(0), refit=True, recover=1, provider="cpu")
    return whole, cut.model


Door = Callable[[str, list[dict[str, Any]]], Any]
DOORS: dict[str, Door] = {
    "validate": lambda kind, data: validate(*refitted(kind), data=data, provider="cpu"),
    "prune": lambda kind, data: prune(model(kind), ratio=0.5, data=data, refit=False, provider="cpu"),
    "sweep": lambda kind, data: sweep(model(kind), [0, 0.25, 0.5], data=data, refit=False, provider="cpu"),
    "quantize": lambda kind, data: quantize(model(kind), to="int4", data=data),
    **{
        f"score by {method}": lambda kind, data, method=method: score(  # type: ignore[misc]
            model(kind), data=data, method=method, provider="cpu"
        )
        for method in methods_of("contexts")
        if method not in WITHOUT_DATA
    },
}


@pytest.mark.each_choice
@pytest.mark.parametrize("kind", ["hidden", "logits"])
@pytest.mark.parametrize(
    "door", [pytest.param(door, marks=pytest.mark.slow if door == "sweep" else ()) for door in DOORS]
)
def test_padding_changes_no_figure(door: str, kind: str) -> None:
    bare, padded = (
        dict(figures(json.loads(json.dumps(DOORS[door](kind, batches(padding)).to_dict()))))
        for padding in (0, 4)
    )
    assert bare and bare.keys() == padded.keys()
    wrong = {
        name: (bare[name], padded[name])
        for name in bare
        if padded[name] != pytest.approx(bare[name], 1e-3, 1e-5)
    }
    assert not wrong


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
