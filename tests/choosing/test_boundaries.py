"""Blocks of a model: what crosses between them is found by dataflow, and one after the other they are the whole."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.choosing.activations import kept as kept_module
from onnxheadprune.choosing.activations.boundaries import Boundaries, Stage, Walk
from onnxheadprune.choosing.activations.chain import Chain, Cut, Outcome
from onnxheadprune.choosing.activations.kept import Kept, Room, Shelf
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.parts import Parts
from onnxheadprune.choosing.compensation.compensate import compensate
from onnxheadprune.edit.submodel import with_stored
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from tests.graphs import toys

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
GRAPHS: dict[str, tuple[str, list[set[str]]]] = {
    "a residual stream": (RESIDUAL, [set(), {"s0"}, {"s1"}]),
    "a mask": (MASKED, [{"kept", "wide"}, {"s0", "wide"}, {"s1", "wide"}]),
    "the states of another stream": (TWO_STREAMS, [set(), {"c0", "states"}, {"c1"}]),
    "a sequence, which cannot be kept": (SEQUENCE, [set(), set(), {"s1"}]),
    "bodies that read from around them": (CONTROL_FLOW, [set(), {"a0"}, {"s1", "a0"}]),
    "operators whose types onnx does not know": (CONTRIB, [set(), {"s0"}, {"s1", "s0"}]),
}
ARRAYS: dict[str, Any] = {
    "last": np.array([2]),
    "two": np.array(2),
    "zero": np.array(0),
    "one": np.array(1),
    "limit": np.array(0.5, np.float32),
    "gain": np.ones(4, np.float32),
}


def places(view: GraphView) -> tuple[list[Node], Boundaries]:
    """The products with weights, and the places in front of them."""
    products = [node for node in view.main.nodes if node.op_type == "MatMul"]
    stages = [Stage((source_of(node),), (node,), (source_of(node), node.out)) for node in products]
    return products, Boundaries(view, stages, [view.main.values["out"]])


def source_of(node: Node) -> Value:
    source = node.inputs[0]
    assert source is not None
    return source


@pytest.mark.parametrize("name", GRAPHS)
def test_what_crosses_is_what_others_still_read(name: str) -> None:
    lines, expected = GRAPHS[name]
    _, boundaries = places(view_of(graph(lines, ARRAYS)))
    assert [set(values) for values in boundaries.crossing] == expected


@pytest.mark.each_choice
@pytest.mark.parametrize("room", [2**29, 0])
@pytest.mark.parametrize("name", GRAPHS)
def test_both_models_compute_at_each_stage_what_whole_passes_compute(name: str, room: int) -> None:
    view, feeds = view_of(graph(GRAPHS[name][0], ARRAYS)), data()
    products, boundaries = places(view)
    stored: dict[str, Any] = {}
    walk = Walk(Parts(view, HERE), boundaries, feeds, stored, room=Room(room))
    for stage, node in enumerate(products):
        walk.enter(stage)
        wanted = [source_of(node), node.out]
        original, changed = walk.original(wanted), walk.changed(wanted)
        parts = Parts(view, HERE)
        names = [value.name for value in wanted]
        alone, other = parts.session({}, names), parts.session({}, names, stored)
        assert alone is not None and other is not None
        for at, feed in enumerate(feeds):
            there, here = original(at), changed(at)
            for want in names:
                np.testing.assert_allclose(there[want], {**feed, **alone.run(feed)}.get(want), atol=1e-6)
                np.testing.assert_allclose(here[want], {**feed, **other.run(feed)}.get(want), atol=1e-6)
        if stage:
            assert not np.allclose(there[names[1]], here[names[1]]), "the second model is the first one"
        weight = node.inputs[1]
        assert weight is not None
        stored[weight.name] = weight.numbers() * 1.5


@pytest.mark.slow
def test_nodes_in_front_of_a_stage_run_once() -> None:
    """A walk over more and more layers: what it asks of ONNX Runtime grows with the layers, not with their square."""

    def nodes_run(layers: int) -> int:
        view, _, calibration = toys.parts(toys.stack(layers=layers), toys.ids(8))
        ran = 0

        class Counting(Parts):
            def _session(self, small: ModelProto) -> Session:
                nonlocal ran
                ran += len(small.graph.node)
                return super()._session(small)

        linears = [Linear.at(node) for node in view.main.nodes if node.op_type == "MatMul"]
        stages = [Stage((item.source,), (item.node,), (item.source,)) for item in linears if item is not None]
        walk = Walk(Counting(view, HERE), Boundaries(view, stages), calibration.feeds, {})
        for stage in range(len(stages)):
            walk.enter(stage)
        return ran

    two, four, eight = (nodes_run(layers) for layers in (2, 4, 8))
    assert eight - four == 2 * (four - two)


@pytest.mark.parametrize("form", [{}, {"heads": 6, "kv_heads": 2}, {"quantized": True}, {"shared": True}])
def test_a_cut_on_its_way_through_the_blocks_is_the_masked_model(form: dict[str, Any]) -> None:
    view, sites, calibration = toys.parts(toys.stack(layers=3, **form))
    cuts = [Cut(site.index, (2,)) for site in sites]
    masked = [Session(masked_reference(view, sites, {site.index: (2,)}), HERE) for site in sites]
    chain = Chain(Parts(view, HERE), sites.sites, [view.main.values["logits"]])
    original, seen = Session(view.model, HERE), 0
    for item in chain.outcomes(cuts, calibration.feeds, "the data", itself):
        feed = calibration.feeds[item.feed]
        for found, session in ((item.before, original), (item.after, masked[item.cut])):
            np.testing.assert_allclose(found["logits"], session.run(feed)["logits"], atol=1e-4)
        assert not np.allclose(item.after["logits"], item.before["logits"], atol=1e-3)
        seen += 1
    assert seen == len(cuts) * len(calibration.feeds)


@pytest.mark.slow
def test_a_cut_with_other_weights_is_the_model_with_them() -> None:
    view, sites, calibration = toys.parts(toys.stack(layers=3))
    names = [f"layer{layer}.attn.out.weight" for layer in range(3)]
    changed = [{name: 1.3 * view.main.values[name].numbers()} for name in names]
    cuts = [Cut(site.index, (), weights) for site, weights in zip(sites, changed, strict=True)]
    chain = Chain(Parts(view, HERE), sites.sites, [view.main.values["logits"]])
    for item in chain.outcomes(cuts, calibration.feeds, "the data", itself):
        whole = Session(with_stored(view.model, changed[item.cut]), HERE).run(calibration.feeds[item.feed])
        np.testing.assert_allclose(item.after["logits"], whole["logits"], atol=1e-4)


def test_sites_of_two_towers_are_cut_each_in_its_own() -> None:
    """The second tower reads nothing of the first: its blocks lie behind the first one's only in the chain."""
    one, two = toys.stack(layers=1), toys.stack(layers=1, seed=1)
    model = beside(one, two)
    view = view_of(model)
    sites = sites_of(view, "the model")
    assert len(sites) == 2
    cuts = [Cut(site.index, (1,)) for site in sites]
    chain = Chain(Parts(view, HERE), sites.sites, [view.main.values[name] for name in ("logits", "b.logits")])
    feeds = toys.ids(2)
    for item in chain.outcomes(cuts, feeds, "the data", itself):
        mine, other = ("logits", "b.logits") if item.cut == 0 else ("b.logits", "logits")
        assert np.array_equal(item.after[other], item.before[other])
        assert not np.allclose(item.after[mine], item.before[mine])


def itself(item: Outcome) -> Outcome:
    """All of an outcome."""
    return item


def beside(one: ModelProto, two: ModelProto) -> ModelProto:
    """Two models of the same inputs as one; names of the second get a prefix."""
    model = ModelProto()
    model.CopyFrom(one)
    kept = {item.name for item in two.graph.input}
    for node in two.graph.node:
        made = model.graph.node.add()
        made.CopyFrom(node)
        made.name = f"b.{node.name}"
        for names in (made.input, made.output):
            for at, name in enumerate(names):
                names[at] = name if name in kept or not name else f"b.{name}"
    for tensor in two.graph.initializer:
        copy = model.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = f"b.{tensor.name}"
    for output in two.graph.output:
        made_output = model.graph.output.add()
        made_output.CopyFrom(output)
        made_output.name = f"b.{output.name}"
    return model


# What is kept


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, bool])
def test_arrays_come_back_from_the_file_as_they_were(dtype: Any) -> None:
    room = Room(100)
    kept = Kept(room)
    arrays = {
        f"{feed}": np.random.default_rng(feed).integers(0, 2, (feed + 1, 3)).astype(dtype)
        for feed in range(40)
    }
    arrays["empty"] = np.zeros((0, 3), dtype)
    arrays["scalar"] = np.array(1, dtype)
    for name, array in arrays.items():
        kept.put(name, {"value": array})
    assert room.left >= 0 and not all(kept.in_memory(name) for name in arrays)
    for name, array in arrays.items():
        back = kept.of(name)["value"]
        assert back.dtype == array.dtype and back.shape == array.shape
        np.testing.assert_array_equal(back, array)
    kept.close()
    assert room.left == 100 and kept.of("3") == {}


def test_a_shelf_is_a_mapping() -> None:
    shelf = Shelf(Room(40))
    shelf["a"], shelf["b"] = np.arange(4.0), np.arange(8.0)
    shelf["a"] = np.arange(5.0)
    assert dict(shelf).keys() == {"a", "b"} and shelf["a"].tolist() == [0, 1, 2, 3, 4]
    assert shelf.in_memory("a") and not shelf.in_memory("b")
    del shelf["b"]
    with pytest.raises(KeyError):
        shelf["b"]


@pytest.mark.slow
def test_a_refit_is_the_same_whatever_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    view, sites, calibration = toys.parts(toys.stack(layers=3), toys.ids(30))
    found = []
    for left in (2**29, 0):
        for module in (kept_module, sys.modules[compensate.__module__]):
            monkeypatch.setattr(module, "IN_MEMORY", left)
        found.append(compensate(view, sites, {0: (1,), 1: (0, 2)}, calibration, HERE).stored)
    assert set(found[0]) == set(found[1]) and len(found[0]) > 6
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name])
