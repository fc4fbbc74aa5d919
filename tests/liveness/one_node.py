"""A one-node model, pruned through the real machinery: what comes out must be the compacted original.

    inputs -> node -> Identity per output          (and sometimes a second reader of input 0)

The demand is seeded on the Identity nodes; sweep, realization, cleanup and surgery do the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    RuntimeException,
)
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from onnxheadprune import RefusedError
from onnxheadprune.edit.apply import apply_edits
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.realize import realize
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.liveness.unused import settled
from onnxheadprune.model.graph.dims import Shape
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.operators import view_of
from tests.liveness.known import assert_known, onnx_type
from tests.liveness.masks import Array, Draw, block_lives, compact, lives, lives_in_runs

Rows: TypeAlias = tuple[int, int]
NOT_RUN = (Fail, InvalidArgument, InvalidGraph, NoKernel, RuntimeException)
"""Errors of ONNX Runtime about a model or its inputs."""


@dataclass(frozen=True)
class Case:
    """One node with its input arrays.

    Attributes:
        op_type: the operator.
        inputs: an array per input, None for an omitted one.
        attributes: its attributes.
        fixed: inputs that must be stored in the model (axes, shapes, indices).
        types: element types of the outputs; one output of the first input's type if empty.
        symbolic: axes per input that are declared only by name.
        outer: values that a body of the node reads.
        bare: outputs that are graph outputs themselves, free to shrink (caches).
        blocks: per axis of the output how many neighbours live and die together (a head).
        opset: of the standard domain.
        domain: of the operator.
    """

    op_type: str
    inputs: tuple[Array | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    fixed: frozenset[int] = frozenset()
    types: tuple[int, ...] = ()
    symbolic: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    outer: Mapping[str, Array] = field(default_factory=dict)
    bare: frozenset[int] = frozenset()
    blocks: Mapping[int, int] = field(default_factory=dict)
    opset: int = 17
    domain: str = ""

    @property
    def known(self) -> bool:
        """Whether shape inference knows the operator; for others the model declares the output shapes."""
        return not self.domain and self.op_type != "SimplifiedLayerNormalization"


class Builder:
    """The model of a case, and what it is fed."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.inputs: list[ValueInfoProto] = []
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.feed: dict[str, Array] = {}
        self.unknown = Unknown()

    def define(
        self, name: str, array: Array, storage: str, symbolic: tuple[int, ...] = (), rows: Rows | None = None
    ) -> str:
        if storage == "input" and rows is not None:
            self._in_runs(name, array, symbolic, *rows)
        elif storage == "input":
            shape = [f"B{size}" if axis in symbolic else size for axis, size in enumerate(array.shape)]
            self.inputs.append(self._info(name, array, shape))
            self.feed[name] = array
        elif storage == "initializer":
            self.initializers.append(numpy_helper.from_array(array, name))
        else:
            constant = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
            self.nodes.append(constant)
        return name

    def _info(self, name: str, array: Array, shape: Sequence[int | str | None]) -> ValueInfoProto:
        """A declaration without what is unknown."""
        left, unknown = list(shape), self.unknown
        if name == unknown.value and unknown.axis is None:
            return helper.make_tensor_value_info(name, onnx_type(array), None)
        if name == unknown.value and unknown.axis is not None:
            left[unknown.axis] = None
        return helper.make_tensor_value_info(name, onnx_type(array), left)

    def _in_runs(self, name: str, array: Array, symbolic: tuple[int, ...], axis: int, count: int) -> None:
        """Rows of unknown length each, one after the other along an axis."""
        raw = f"{name}_raw"
        split = (*array.shape[:axis], count, array.shape[axis] // count, *array.shape[axis + 1 :])
        moved = tuple(other + (other > axis) for other in symbolic if other != axis)
        self.define(raw, array.reshape(split), "input", (*moved, axis + 1))
        make = helper.make_node
        self.nodes.append(make("Shape", [raw], [f"{raw}_shape"]))
        parts = [f"{raw}_part{part}" for part in range(4)]
        for part, (start, stop) in zip(
            parts, itertools.pairwise((0, axis, axis + 1, axis + 2, len(split))), strict=True
        ):
            places = self.define(f"{part}_places", np.arange(start, stop), "initializer")
            self.nodes.append(make("Gather", [f"{raw}_shape", places], [part]))
        self.nodes.append(make("Mul", parts[1:3], [f"{raw}_long"]))
        self.nodes.append(make("Concat", [parts[0], f"{raw}_long", parts[3]], [f"{raw}_target"], axis=0))
        self.nodes.append(make("Reshape", [raw, f"{raw}_target"], [name]))

    def model(self, setup: Setup, declare: Mapping[str, Array] | None = None) -> ModelProto:
        case, self.unknown = self.case, setup.unknown
        names = []
        for index, (array, storage) in enumerate(zip(case.inputs, setup.storages, strict=True)):
            symbolic, rows = case.symbolic.get(index, ()), setup.rows.get(index)
            names.append("" if array is None else self.define(f"x{index}", array, storage, symbolic, rows))
        for name, array in case.outer.items():
            self.define(name, array, "input")
        first = next(array for array in (*case.inputs, *case.outer.values()) if array is not None)
        types = case.types or (onnx_type(first),)
        outputs = [f"y{index}" for index in range(len(types))]
        attributes = {name: item for name, item in case.attributes.items() if name != setup.unknown.attribute}
        self.nodes.append(helper.make_node(case.op_type, names, outputs, domain=case.domain, **attributes))
        typed = dict(zip(outputs, types, strict=True))
        infos = [helper.make_tensor_value_info(f"y{index}", types[index], None) for index in case.bare]
        readers = [(name, typed.pop(name)) for name in outputs if int(name[1:]) not in case.bare]
        readers += [("x0", onnx_type(first))] if setup.side else []
        for name, elem_type in readers:
            self.nodes.append(helper.make_node("Identity", [name], [f"{name}_read"]))
            infos.append(helper.make_tensor_value_info(f"{name}_read", elem_type, None))
        known = [self._info(name, array, array.shape) for name, array in (declare or {}).items()]
        graph = helper.make_graph(
            self.nodes, "one_node", self.inputs, infos, self.initializers, value_info=known
        )
        imports = [helper.make_opsetid("", case.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def check_equal(got: Mapping[str, Array], want: Mapping[str, Array], atol: float = 1e-5) -> None:
    """All wanted outputs are there, with the same numbers up to rounding."""
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, atol=atol)


def running(model: ModelProto) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """A session of ONNX Runtime on the CPU without graph optimizations: from inputs to outputs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def outputs(feed: Mapping[str, Array]) -> dict[str, Array]:
        # A kernel may write into what it is fed (the running statistics of a BatchNormalization).
        fed = {name: array.copy() for name, array in feed.items()}
        return dict(zip(names, session.run(names, fed), strict=True))

    return outputs


def run(model: ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a model."""
    return running(model)(feed)


def pruned(view: GraphView, swept: Sweep) -> ModelProto:
    """The viewed model with everything that a sweep calls for carried out."""
    return apply_edits(settled(view, dict(realize(view, swept).edits)), view.model)


def assert_same(got: Array, want: Array) -> None:
    """Equal up to the rounding of a kernel that vectorises another number of elements."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if want.dtype.kind == "f":
        scale = float(np.max(np.abs(want[np.isfinite(want)]), initial=1.0))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6 * scale)
    else:
        np.testing.assert_array_equal(got, want)


@dataclass(frozen=True)
class Unknown:
    """One thing that the model does not say.

    Attributes:
        value: the input or output with an undeclared shape or size.
        axis: of a size that is not declared, None where no axis is.
        attribute: the attribute that is left out.
    """

    value: str = ""
    axis: int | None = None
    attribute: str = ""


@dataclass(frozen=True)
class Setup:
    """How a case is put into a model.

    Attributes:
        storages: per input "input", "initializer" or "constant".
        side: whether a second node reads input 0.
        declared: whether the model declares the shapes of the node's outputs.
        free: whether graph inputs may be narrowed.
        rows: per input an axis that is rows of unknown length, one after the other, and how many.
        unknown: what the model does not say.
    """

    storages: tuple[str, ...]
    side: bool = False
    declared: bool = False
    free: bool = True
    rows: Mapping[int, Rows] = field(default_factory=dict)
    unknown: Unknown = Unknown()


def default_setup(case: Case) -> Setup:
    """Fixed inputs stored, all others graph inputs that may be narrowed."""
    kinds = ("initializer" if index in case.fixed else "input" for index in range(len(case.inputs)))
    return Setup(tuple(kinds), declared=not case.known)


def build_model(case: Case, setup: Setup) -> ModelProto:
    """The model of a case, without declared output shapes."""
    return Builder(case).model(setup)


def check(case: Case, setup: Setup, demand: Callable[[Shape], Live]) -> bool:
    """Prunes what `demand` says of the outputs and compares; whether the node's rule passed it on."""
    builder = Builder(case)
    model = builder.model(setup)
    before = run(model, builder.feed)
    if setup.declared:
        model = Builder(case).model(setup, _read(before))
    view = view_of(model)
    assert_known(view, builder.feed | before)
    node = _node(view, case)
    demands = _demands(view, demand)
    bare = [value for value in view.main.values.values() if value.is_graph_output and value.producer is node]
    free = frozenset([value for value in view.main.values.values() if value.is_graph_input] + bare)
    seeds = [Seed(reader, 0, live, "test") for reader, live in demands.items()]
    swept = sweep(seeds, free if setup.free else frozenset(bare))
    narrowed = {value.name: live for value, live in swept.narrowed()}
    feed = {name: compact(array, narrowed.get(name, FULL)) for name, array in builder.feed.items()}
    after = run(pruned(view, swept), feed)
    for reader, live in demands.items():
        assert_same(after[reader.out.name], compact(before[reader.out.name], live))
    for value in bare:
        assert_same(after[value.name], compact(before[value.name], narrowed.get(value.name, FULL)))
    return node in swept.answers


def check_drawn(case: Case, draw: Draw) -> bool:
    """`check` in a random setup with random demands."""
    return check(case, _drawn_setup(case, draw), _drawn_demand(case, draw))


def unsized(case: Case) -> set[int]:
    """The outputs of a case whose sizes a view does not tell where a model declares those of the inputs only."""
    setup = replace(default_setup(case), declared=False)
    outputs = _node(view_of(Builder(case).model(setup)), case).outputs
    return {
        index
        for index, value in enumerate(outputs)
        if value.shape is None or not all(isinstance(size, int) for size in value.shape)
    }


def check_unknown(case: Case, draw: Draw) -> bool:
    """`check` of a model that lacks one thing and that ONNX Runtime runs; such a model may be refused, too.

    Whatever a model lacks, its cost is that of the whole one or is not told.
    """
    setup = replace(_drawn_setup(case, draw), declared=draw(st.integers(0, 3)) > 0)
    builder, whole = Builder(case), Builder(case)
    outputs = run(whole.model(setup), whole.feed)
    ranks = {name[:2]: array.ndim for name, array in outputs.items()}
    every = _lacking(case, setup, ranks)
    known = _cost(case, Builder(case).model(setup, _read(outputs)))
    for each in every:
        assert each.unknown.attribute or _cost(case, Builder(case).model(each)) in (None, known), each
    lacking = draw(st.sampled_from(every))
    try:
        run(builder.model(lacking), builder.feed)
    except NOT_RUN:
        return False
    try:
        return check(case, lacking, _drawn_demand(case, draw))
    except RefusedError:
        return False


def _read(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of the node that are no outputs of the graph."""
    return {name[:-5]: array for name, array in outputs.items() if name[0] == "y" and name[-5:] == "_read"}


def _node(view: GraphView, case: Case) -> Node:
    return next(node for node in view.nodes if node.op_type == case.op_type and node.domain == case.domain)


def _cost(case: Case, model: ModelProto) -> int | None:
    node = _node(view_of(model), case)
    cost: int | None = None if node.operator.cost is None else node.operator.cost(node)
    return cost


def _lacking(case: Case, setup: Setup, ranks: Mapping[str, int]) -> list[Setup]:
    """A setup for each thing that a model may lack: a shape, a size, a stored number, an attribute."""
    declared, lacking = dict(ranks) if setup.declared else {}, []
    for index, array in enumerate(case.inputs):
        if array is None:
            continue
        if setup.storages[index] == "input":
            declared[f"x{index}"] = array.ndim
        else:
            storages = (*setup.storages[:index], "input", *setup.storages[index + 1 :])
            lacking.append(replace(setup, storages=storages))
    unknown = [Unknown(attribute=name) for name in case.attributes]
    for name, rank in declared.items():
        unknown += [Unknown(name), *(Unknown(name, axis) for axis in range(rank))]
    return lacking + [replace(setup, unknown=item) for item in unknown]


def _drawn_demand(case: Case, draw: Draw) -> Callable[[Shape], Live]:
    """Random masks, mostly of whole blocks where a case has such."""
    if case.blocks and draw(st.integers(0, 4)):
        return lambda shape: draw(block_lives(shape, case.blocks))
    return lambda shape: draw(lives(shape))


def _drawn_setup(case: Case, draw: Draw) -> Setup:
    kinds = st.sampled_from(("input", "input", "initializer", "constant"))
    stored = st.sampled_from(("initializer", "constant"))
    storages = tuple(draw(stored if index in case.fixed else kinds) for index in range(len(case.inputs)))
    side = bool(case.inputs) and case.inputs[0] is not None and draw(st.integers(0, 3)) == 3
    declared = draw(st.booleans()) if case.known else True
    return Setup(storages, side, declared, draw(st.integers(0, 2)) < 2)


def check_in_runs(case: Case, draw: Draw) -> bool:
    """`check` with axes of a multiple of an unknown length, and demands that name whole rows of them."""
    shapes = {
        index: array.shape
        for index, array in enumerate(case.inputs)
        if array is not None and array.size and index not in case.fixed
    }
    places = {
        axis - (len(shape) if behind else 0)
        for shape in shapes.values()
        for axis in range(len(shape))
        for behind in (0, 1)
    }
    rows: dict[int, Rows] = {}
    if places:
        place, count = draw(st.sampled_from(sorted(places))), draw(st.sampled_from((2, 2, 4)))
        for index, shape in shapes.items():
            axis = place % len(shape) if shape and -len(shape) <= place < len(shape) else None
            if axis is not None and shape[axis] % count == 0:
                rows[index] = axis, count
    setup = replace(default_setup(case), declared=False, rows=rows)
    try:
        return bool(rows) and check(case, setup, lambda shape: draw(lives_in_runs(shape)))
    except RefusedError:
        # Nothing can be picked from an axis of unknown length.
        return False


def _demands(view: GraphView, demand: Callable[[Shape], Live]) -> dict[Node, Live]:
    """A mask for every reader; one whose shape is unknown reads everything."""
    readers = [node for node in view.nodes if node.out.name.endswith("_read")]
    return {reader: demand(reader.shape(0) or ()) for reader in readers}
