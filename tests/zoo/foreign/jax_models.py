"""JAX models through jax2onnx: see `tests.zoo.measure`.

The projections are torch modules whose weights the JAX
function reads on every call, so that heads are silenced as everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import torch
from flax import linen
from jax2onnx import to_onnx
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import at
from tests.zoo.case import Case
from tests.zoo.foreign.exported import Exported

FAMILY = "jax"
BLOCKS, HEADS, SIZE, WIDTH, LENGTH = 2, 4, 8, 24, 7
Forward = Callable[[Any, list[Any]], Any]
"""Takes x `[batch, LENGTH, WIDTH]` and the output projections `[HEADS * SIZE, WIDTH]`."""


def _weights(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal((3, WIDTH, HEADS * SIZE)).astype(np.float32) / np.sqrt(WIDTH)
    return dict(zip("qkv", (jnp.asarray(matrix) for matrix in draw), strict=True))


def _norm(x: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)


def _split(x: Any, weight: Any) -> Any:
    return jnp.reshape(x @ weight, (*x.shape[:2], HEADS, SIZE))


def einsums(x: Any, outs: list[Any]) -> Any:
    """Attention spelled with einsum."""
    for number, out in enumerate(outs):
        q, k, v = (_split(_norm(x), weight) for weight in _weights(number).values())
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(SIZE), axis=-1)
        context = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        x = x + jnp.reshape(context, (*x.shape[:2], HEADS * SIZE)) @ out
    return x


def library(x: Any, outs: list[Any]) -> Any:
    """`jax.nn.dot_product_attention`, and a projection that sums over two axes."""
    for number, out in enumerate(outs):
        q, k, v = (_split(_norm(x), weight) for weight in _weights(number).values())
        context = jax.nn.dot_product_attention(q, k, v)
        x = x + jnp.einsum("bqhd,hdn->bqn", context, jnp.reshape(out, (HEADS, SIZE, WIDTH)))
    return x


@lru_cache
def _layers() -> tuple[tuple[Any, Any], ...]:
    layer = linen.MultiHeadDotProductAttention(num_heads=HEADS, qkv_features=HEADS * SIZE, out_features=WIDTH)
    example = jnp.zeros((1, LENGTH, WIDTH))
    return tuple((layer, layer.init(jax.random.key(number), example)["params"]) for number in range(BLOCKS))


def flax(x: Any, outs: list[Any]) -> Any:
    """Flax's attention layer."""
    for (layer, parameters), out in zip(_layers(), outs, strict=True):
        kernel = {"kernel": jnp.reshape(out, (HEADS, SIZE, WIDTH))}
        replaced = {**parameters, "out": {**parameters["out"], **kernel}}
        x = x + layer.apply({"params": replaced}, _norm(x))
    return x


class Wrapped(nn.Module):
    """A JAX function whose output projections are torch modules."""

    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function
        self.outs = nn.ModuleList(nn.Linear(HEADS * SIZE, WIDTH, bias=False) for _ in range(BLOCKS))

    def weights(self) -> list[Any]:
        """The projections as the function takes them."""
        return [jnp.asarray(out.weight.detach().numpy().T) for out in self.outs]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs the model."""
        for out in self.outs:  # the zoo watches the modules run
            out(torch.zeros(1, HEADS * SIZE))
        return torch.from_numpy(np.array(self.function(jnp.asarray(x.numpy()), self.weights())))


def case_of(name: str, function: Forward, folder: Path) -> tuple[Case, Path]:
    """Exports a function; the case, and the file that was written."""
    torch.manual_seed(7)
    _layers()
    model = Wrapped(function)
    path = folder / "model.onnx"
    exported = to_onnx(lambda x: function(x, model.weights()), [("batch", LENGTH, WIDTH)])
    onnx.save(exported, path)
    (given,), (result,) = exported.graph.input, exported.graph.output
    return (
        Case(
            name=name,
            family=FAMILY,
            builder=lambda: model,
            feeds=tuple({given.name: feeds.floats(batch, LENGTH, WIDTH)} for batch in (3, 1)),
            outputs=(result.name,),
            dynamic_axes={},
            rules=at(*(f"outs.{i}" for i in range(BLOCKS)), heads=HEADS),
            note="jax2onnx",
        ),
        path,
    )


def rows() -> dict[str, Exported]:
    """Return the rows of the table."""
    functions = {"jax-einsum": einsums, "jax-dot-product": library, "flax-mha": flax}
    return {
        name: Exported(name, FAMILY, {"jax": partial(case_of, name, function)})
        for name, function in functions.items()
    }
