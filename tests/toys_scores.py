"""Small decoders for scoring and selection: grouped queries, shared or quantized weights, several layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.choosing.allocate import Limits, Savings
from onnxheadprune.choosing.space import SearchSpace
from onnxheadprune.data.calibration import Calibration, calibration_data
from onnxheadprune.operators import view_of
from tests.graph_builder import GraphBuilder
from tests.toys import VOCABULARY

SIZE, HIDDEN, INNER = 4, 12, 20
Feeds = list[dict[str, Any]]


def stack(
    *,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 4,
    shared: bool = False,
    quantized: bool = False,
    dtype: Any = np.float32,
    seed: int = 0,
    inner: int = INNER,
    gated: bool = False,
) -> ModelProto:
    """`input_ids [batch, sequence]` through attention blocks to `logits`.

    Args:
        layers: blocks.
        heads: query heads of each.
        kv_heads: key and value heads of each.
        shared: all blocks read the same weights, as ALBERT's do.
        quantized: output projections are int8 behind DequantizeLinear.
        dtype: of the weights.
        seed: of the weights.
        inner: neurons of each feed-forward block.
        gated: two maps read what comes into a feed-forward block, as in Llama.
    """
    toy = GraphBuilder(dtype, seed)
    stream = toy.node("Gather", [toy.weight("embed.weight", VOCABULARY, HIDDEN), "input_ids"], "embedded")
    known: dict[str, str] = {}

    def weight(name: str, *shape: int) -> str:
        if shared:
            name = name.partition(".")[2]
        return known.get(name) or known.setdefault(name, toy.weight(name, *shape))

    for layer in range(layers):
        stream = _block(toy, f"layer{layer}", stream, (heads, kv_heads), weight, quantized)
        stream = _feed_forward(toy, f"layer{layer}", stream, inner, weight, gated)
    toy.node("MatMul", [stream, toy.weight("head.weight", HIDDEN, VOCABULARY)], "logits")
    inputs = [toy.info("input_ids", ["batch", "sequence"], TensorProto.INT64)]
    return toy.model(inputs, [toy.info("logits", ["batch", "sequence", VOCABULARY])])


def _block(
    toy: GraphBuilder, layer: str, stream: str, sizes: tuple[int, int], weight: Any, quantized: bool
) -> str:
    heads, kv_heads = sizes
    for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        made = toy.node(
            "MatMul",
            [stream, weight(f"{layer}.attn.{name}.weight", HIDDEN, count * SIZE)],
            f"{layer}.{name}_flat",
        )
        split = toy.constant(f"{layer}.{name}_split", np.array([0, 0, count, SIZE]))
        made = toy.node("Reshape", [made, split], f"{layer}.{name}_split_out")
        made = toy.node("Transpose", [made], f"{layer}.{name}_heads", perm=[0, 2, 1, 3])
        if count != heads:
            _repeat(toy, f"{layer}.{name}", made, heads, count)
        else:
            toy.node("Identity", [made], f"{layer}.{name}")
    toy.node("Transpose", [f"{layer}.k"], f"{layer}.k_turned", perm=[0, 1, 3, 2])
    toy.node("MatMul", [f"{layer}.q", f"{layer}.k_turned"], f"{layer}.scores")
    toy.node("Softmax", [f"{layer}.scores"], f"{layer}.probabilities", axis=-1)
    toy.node("MatMul", [f"{layer}.probabilities", f"{layer}.v"], f"{layer}.context")
    toy.node("Transpose", [f"{layer}.context"], f"{layer}.context_back", perm=[0, 2, 1, 3])
    merge = toy.constant(f"{layer}.merge", np.array([0, 0, heads * SIZE]))
    merged = toy.node("Reshape", [f"{layer}.context_back", merge], f"{layer}.merged")
    out = (
        _int8(toy, layer, heads * SIZE)
        if quantized
        else weight(f"{layer}.attn.out.weight", heads * SIZE, HIDDEN)
    )
    projected = toy.node("MatMul", [merged, out], f"{layer}.projected")
    biased = toy.node("Add", [projected, weight(f"{layer}.attn.out.bias", HIDDEN)], f"{layer}.biased")
    return toy.node("Add", [stream, biased], f"{layer}.stream")


def _feed_forward(toy: GraphBuilder, layer: str, stream: str, inner: int, weight: Any, gated: bool) -> str:
    up = toy.node("MatMul", [stream, weight(f"{layer}.up.weight", HIDDEN, inner)], f"{layer}.up")
    active = toy.node("Tanh", [up], f"{layer}.active")
    if gated:
        gate = toy.node("MatMul", [stream, weight(f"{layer}.gate.weight", HIDDEN, inner)], f"{layer}.gate")
        active = toy.node("Mul", [active, gate], f"{layer}.gated")
    down = toy.node("MatMul", [active, weight(f"{layer}.down.weight", inner, HIDDEN)], f"{layer}.down")
    return toy.node("Add", [stream, down], f"{layer}.out")


def _repeat(toy: GraphBuilder, name: str, made: str, heads: int, kv_heads: int) -> None:
    axis = toy.constant(f"{name}_axis", np.array([2]))
    alone = toy.node("Unsqueeze", [made, axis], f"{name}_alone")
    times = toy.constant(f"{name}_times", np.array([1, 1, heads // kv_heads, 1, 1]))
    copies = toy.node("Tile", [alone, times], f"{name}_copies")
    toy.node("Reshape", [copies, toy.constant(f"{name}_all", np.array([0, heads, -1, SIZE]))], name)


def _int8(toy: GraphBuilder, layer: str, rows: int) -> str:
    weights = toy.rng.integers(-60, 61, (rows, HIDDEN)).astype(np.int8)
    names = [
        toy.constant(f"{layer}.attn.out.weight", weights),
        toy.constant(f"{layer}.attn.out.scale", np.array(0.01, toy.dtype)),
        toy.constant(f"{layer}.attn.out.zero", np.array(0, np.int8)),
    ]
    return toy.node("DequantizeLinear", names, f"{layer}.attn.out.float")


def ids(feeds: int = 10, rows: int = 8, length: int = 6, seed: int = 3) -> Feeds:
    """Feeds for `stack`."""
    random = np.random.default_rng(seed)
    return [{"input_ids": random.integers(0, VOCABULARY, (rows, length))} for _ in range(feeds)]


def parts(model: ModelProto, feeds: Any = None) -> tuple[Any, Sites, Calibration]:
    """A model's annotated view, its sites, and data for it."""
    view = view_of(model)
    return view, sites_of(view, "the model"), calibration_data(ids() if feeds is None else feeds, view)


def removed(
    sites: Sites, paths: Any, wanted: int, limits: Limits, *, each: bool = False
) -> dict[int, frozenset[int]]:
    """The heads of the cheapest cut of so many, or of that with so many left of each site, from the paths of all."""
    within = {site.index: limits.options(site, paths[site.index])[1:] for site in sites}
    total = sum(site.num_heads for site in sites)
    savings = {site.index: Savings.evenly(site.num_heads, 1) for site in sites}
    space = SearchSpace(sites.sites, within, savings, total, "", "heads", total, 1, limits)
    found = space.keeping(wanted) if each else space.removing(wanted)
    return {index: frozenset(heads) for index, heads in found.heads.items()}
