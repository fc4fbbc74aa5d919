"""Blocks of a model: what crosses between them is found by dataflow, and one after the other they are the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxheadprune.choosing.activations import walk as walk_module
from onnxheadprune.choosing.activations.boundaries import Boundaries, Stage
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.choosing.activations.walk import Variant, Walk
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session

HERE = Provider(CPU, "test")
Feeds = list[dict[str, Any]]


def graph(lines: str, arrays: dict[str, Any] | None = None, width: int = 4) -> ModelProto:
    """`x [b, s, width]` to `out` through square maps w0, w1, w2, ... with random weights."""
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[b,s,{width}] x, int64[b,s] mask) => (float[b,s,{width}] out) {{ {lines} }}"""
    )
    random = np.random.default_rng(0)
    named = {f"w{at}": random.standard_normal((width, width)).astype(np.float32) for at in range(4)}
    named |= arrays or {}
    read = {name for node in model.graph.node for name in node.input}
    read |= {
        name
        for node in model.graph.node
        for attribute in node.attribute
        for item in attribute.g.node
        for name in item.input
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in named.items() if name in read
    )
    return model


def data(count: int = 3, width: int = 4) -> Feeds:
    random = np.random.default_rng(1)
    return [
        {
            "x": random.standard_normal((2, 5, width)).astype(np.float32),
            "mask": random.integers(0, 2, (2, 5)),
        }
        for _ in range(count)
    ]


RESIDUAL = """
    m0 = MatMul (x, w0)
    a0 = Tanh (m0)
    s0 = Add (x, a0)
    m1 = MatMul (s0, w1)
    a1 = Tanh (m1)
    s1 = Add (s0, a1)
    m2 = MatMul (s1, w2)
    out = Add (s1, m2)
    """
MASKED = """
    seen = Cast <to = 1> (mask)
    wide = Unsqueeze (seen, last)
    kept = Mul (x, wide)
    m0 = MatMul (kept, w0)
    s0 = Mul (m0, wide)
    m1 = MatMul (s0, w1)
    s1 = Mul (m1, wide)
    m2 = MatMul (s1, w2)
    out = Mul (m2, wide)
    """
TWO_STREAMS = """
    states = Tanh (x)
    m0 = MatMul (x, w0)
    c0 = Mul (m0, states)
    m1 = MatMul (c0, w1)
    c1 = Mul (m1, states)
    m2 = MatMul (c1, w2)
    out = Add (m2, x)
    """
SEQUENCE = """
    halves = SplitToSequence <axis = 2> (x, two)
    first = SequenceAt (halves, zero)
    both = Concat <axis = 2> (first, first)
    m0 = MatMul (both, w0)
    a0 = Tanh (m0)
    m1 = MatMul (a0, w1)
    second = SequenceAt (halves, one)
    again = Concat <axis = 2> (second, second)
    s1 = Add (m1, again)
    m2 = MatMul (s1, w2)
    out = Add (m2, x)
    """
CONTROL_FLOW = """
    m0 = MatMul (x, w0)
    a0 = Tanh (m0)
    m1 = MatMul (a0, w1)
    large = ReduceMax <keepdims = 0> (m1)
    yes = Greater (large, limit)
    s1 = If (yes) <then_branch = then () => (float[b,s,4] t) { t = Mul (m1, a0) },
                   else_branch = other () => (float[b,s,4] e) { e = Add (m1, x) }>
    m2 = MatMul (s1, w2)
    out = Add (m2, a0)
    """
CONTRIB = """
    m0 = MatMul (x, w0)
    s0 = com.microsoft.FastGelu (m0)
    m1 = MatMul (s0, w1)
    s1 = com.microsoft.SkipLayerNormalization (m1, s0, gain)
    m2 = MatMul (s1, w2)
    out = Add (m2, s0)
    """
GRAPHS = {
    "a residual stream": RESIDUAL,
    "a mask": MASKED,
    "the states of another stream": TWO_STREAMS,
    "a sequence, which cannot be kept": SEQUENCE,
    "bodies that read from around them": CONTROL_FLOW,
    "operators whose types onnx does not know": CONTRIB,
}
ARRAYS: dict[str, Any] = {
    "last": np.array([2]),
    "two": np.array(2),
    "zero": np.array(0),
    "one": np.array(1),
    "limit": np.array(0.5, np.float32),
    "gain": np.ones(4, np.float32),
}


def source_of(node: Node) -> Value:
    source = node.inputs[0]
    assert source is not None
    return source


def places(view: GraphView) -> tuple[list[Node], Boundaries]:
    """The products with weights, and the places in front of them."""
    products = [node for node in view.main.nodes if node.op_type == "MatMul"]
    stages = [Stage((source_of(node),), (node,), (source_of(node), node.out)) for node in products]
    return products, Boundaries(view, stages, [view.main.values["out"]])


def showing(model: ModelProto, names: list[str], stored: dict[str, Any]) -> ModelProto:
    """The whole model with some of its values as outputs, and with other weights where such are given."""
    shown = ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    for name in names:
        shown.graph.output.add(name=name)
    for tensor in shown.graph.initializer:
        if tensor.name in stored:
            tensor.CopyFrom(numpy_helper.from_array(stored[tensor.name], tensor.name))
    return shown


@pytest.mark.each_choice
@pytest.mark.parametrize("room", [2**29, 0])
@pytest.mark.parametrize("name", GRAPHS)
def test_both_models_compute_at_each_stage_what_whole_passes_compute(
    name: str, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, feeds = view_of(graph(GRAPHS[name], ARRAYS)), data()
    products, boundaries = places(view)
    stored: dict[str, Any] = {}
    monkeypatch.setattr(walk_module, "IN_MEMORY", room)
    walk, variant = Walk(Parts(view, HERE), boundaries, feeds), Variant(boundaries.changed)
    walk.start(variant, ((at, {}) for at in range(len(feeds))), stored)
    for stage, node in enumerate(products):
        walk.enter(stage)
        wanted = [source_of(node), node.out]
        original, changed = walk.original(wanted), walk.read(wanted, variant)
        names = [value.name for value in wanted]
        alone, other = (Session(showing(view.model, names, changes), HERE) for changes in ({}, stored))
        for at, feed in enumerate(feeds):
            there, here = original(at), changed(at)
            for want in names:
                np.testing.assert_allclose(there[want], alone.run(feed)[want], atol=1e-6)
                np.testing.assert_allclose(here[want], other.run(feed)[want], atol=1e-6)
        if stage:
            assert not np.allclose(there[names[1]], here[names[1]]), "the second model is the first one"
        weight = node.inputs[1]
        assert weight is not None
        stored[weight.name] = weight.numbers() * 1.5
