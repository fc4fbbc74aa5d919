"""Keras models through tf2onnx: see `tests.zoo.measure`.

The projections are torch modules whose weights are written
into the Keras layers before every call, so that heads are silenced as everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import at
from tests.zoo.case import Case
from tests.zoo.foreign.exported import Exported

FAMILY = "keras"
BLOCKS, HEADS, KV_HEADS, SIZE, WIDTH, LENGTH = 2, 4, 2, 8, 24, 7
Layer = Callable[[], Any]


def multi_head() -> Any:
    """Keras's MultiHeadAttention."""
    return keras.layers.MultiHeadAttention(num_heads=HEADS, key_dim=SIZE)


def grouped() -> Any:
    """Keras's GroupedQueryAttention."""
    return keras.layers.GroupQueryAttention(
        head_dim=SIZE, num_query_heads=HEADS, num_key_value_heads=KV_HEADS
    )


class Wrapped(nn.Module):
    """A stack of attention layers whose output projections are torch modules."""

    def __init__(self, layer: Layer, length: int | None) -> None:
        super().__init__()
        keras.utils.set_random_seed(7)
        given = hidden = keras.Input((length, WIDTH))
        self.layers = []
        for _ in range(BLOCKS):
            normed = keras.layers.LayerNormalization()(hidden)
            self.layers.append(layer())
            hidden = hidden + self.layers[-1](normed, normed)
        self.network = keras.Model(given, hidden)
        self.outs = nn.ModuleList(nn.Linear(HEADS * SIZE, WIDTH, bias=False) for _ in range(BLOCKS))

    def settle(self) -> None:
        """Writes the weights of the torch modules into the Keras layers."""
        for layer, out in zip(self.layers, self.outs, strict=True):
            dense = getattr(layer, "_output_dense", None) or layer.output_dense
            dense.kernel.assign(out.weight.detach().numpy().T.reshape(HEADS, SIZE, WIDTH))

    def __deepcopy__(self, memo: dict[int, Any]) -> Wrapped:
        """The Keras layers are shared: they hold what was settled last."""
        copy = Wrapped.__new__(Wrapped)
        nn.Module.__init__(copy)
        copy.layers, copy.network = self.layers, self.network
        copy.outs = nn.ModuleList(nn.Linear(HEADS * SIZE, WIDTH, bias=False) for _ in range(BLOCKS))
        copy.outs.load_state_dict(self.outs.state_dict())
        return copy

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the model."""
        self.settle()
        for out in self.outs:  # the zoo watches the modules run
            out(torch.zeros(1, HEADS * SIZE))
        return torch.from_numpy(np.array(self.network(x.numpy(), training=False)))


def case_of(name: str, layer: Layer, length: int | None, kv_heads: int, folder: Path) -> tuple[Case, Path]:
    """Exports a stack; the case, and the file that was written."""
    torch.manual_seed(7)
    model = Wrapped(layer, length)
    model.settle()
    spec = [tf.TensorSpec((None, length, WIDTH), tf.float32, name="x")]
    function = tf.function(lambda x: model.network(x, training=False), input_signature=spec)
    exported, _ = tf2onnx.convert.from_function(function, input_signature=spec, opset=17)
    path = folder / "model.onnx"
    onnx.save(exported, path)
    (given,), (result,) = exported.graph.input, exported.graph.output
    sizes = ((3, LENGTH), (1, LENGTH if length else 5))
    return (
        Case(
            name=name,
            family=FAMILY,
            builder=lambda: model,
            feeds=tuple({given.name: feeds.floats(*size, WIDTH)} for size in sizes),
            outputs=(result.name,),
            dynamic_axes={},
            rules=at(*(f"outs.{i}" for i in range(BLOCKS)), heads=HEADS, kv=kv_heads),
            note="tf2onnx",
        ),
        path,
    )


def rows() -> dict[str, Exported]:
    """Return the rows of the table."""
    table = {
        "keras-mha": (multi_head, LENGTH, HEADS),
        "keras-mha-dynamic": (multi_head, None, HEADS),
        "keras-gqa": (grouped, LENGTH, KV_HEADS),
    }
    return {
        name: Exported(name, FAMILY, {"tf2onnx": partial(case_of, name, *own)}) for name, own in table.items()
    }
