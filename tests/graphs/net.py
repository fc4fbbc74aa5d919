"""The builder of the table's graphs. It marks where units are computed, and multiplies in their zeros itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx.parser
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from tests.graph_builder import GraphBuilder
from tests.graph_text import names_read
from tests.graphs.blueprint import PLAIN, Blueprint
from tests.liveness.masks import Array
from tests.liveness.one_node import running

Cut = Mapping[str, Sequence[int]]
"""The units that are removed, by the keys of their sites."""
Owners = Sequence[Sequence[int]]
"""For each position along an axis the units that need it; nobody needs it once all of them are removed."""


def each(units: int, size: int = 1) -> Owners:
    """`size` neighbours for each unit."""
    return [[unit] for unit in range(units) for _ in range(size)]


def grouped(units: int, groups: int, size: int = 1) -> Owners:
    """`size` neighbours for each group of units that share keys and values."""
    ratio = units // groups
    return [list(range(group * ratio, (group + 1) * ratio)) for group in range(groups) for _ in range(size)]


@dataclass(frozen=True)
class Mark:
    """An axis of a value along which units lie.

    Attributes:
        site: the key of their site.
        value: the name of the value; of an input or output if callers see the units.
        axis: the axis, counted from the last one (-1).
        owners: of its positions.
        fill: what a position without any of its units holds.
        sizes: of several axes from this one on; `owners` lists their positions row by row.
    """

    site: str
    value: str
    axis: int
    owners: Owners
    fill: float = 0.0
    sizes: tuple[int, ...] = (-1,)

    def dead(self, cut: Cut) -> Array:
        """Return which positions are dead after a cut."""
        gone = set(cut.get(self.site, ()))
        return np.array([bool(units) and gone.issuperset(units) for units in self.owners])

    def narrowed(self, array: Array, cut: Cut) -> Array:
        """Return an input or output as callers pass it after a cut: without dead positions, whole if all are dead."""
        dead = self.dead(cut)
        return array if dead.all() else array.compress(~dead, self.axis)

    def node(self, inner: str, outer: str, cut: Cut) -> tuple[NodeProto, Any]:
        """The node that silences dead positions, and its constant."""
        dead = self.dead(cut).reshape(*self.sizes, *[1] * (-self.axis - len(self.sizes)))
        number = np.where(dead, self.fill, 0) if self.fill else np.where(dead, 0, 1)
        stored = numpy_helper.from_array(number.astype(np.float32), f"{outer}/dead")
        return helper.make_node("Add" if self.fill else "Mul", [inner, stored.name], [outer]), stored


@dataclass(frozen=True)
class Rows(Mark):
    """An axis of an input or output whose first axis is that of layers, each with units of its own.

    Where layers keep different numbers of units, all of them stay.
    """

    def narrowed(self, array: Array, cut: Cut) -> Array:
        """Return an input or output as callers pass it after a cut."""
        kept = [~replace(self, site=site).dead(cut) for site in self.site.split()]
        if len({int(some.sum()) for some in kept}) > 1 or not kept[0].any():
            return array
        return np.stack([part.compress(some, self.axis) for part, some in zip(array, kept, strict=True)])


@dataclass(frozen=True)
class Skip:
    """A layer: without it, readers of the state behind it read the state in front of it."""

    site: str
    value: str
    before: str

    def dead(self, cut: Cut) -> Array:
        """Return whether the layer is removed."""
        return np.array([self.site in cut])

    def node(self, inner: str, outer: str, cut: Cut) -> tuple[NodeProto, Any]:
        """The node that takes the place of the layer."""
        return helper.make_node("Identity", [self.before], [outer]), None


@dataclass(frozen=True)
class Graph:
    """A model with what its builder knows of it.

    Attributes:
        model: the model.
        feed: inputs that it accepts.
        marks: where units are computed.
        lies: where inputs and outputs hold units.
        expected: computes outputs after a cut in numpy, where zeros are no masks.
    """

    model: ModelProto
    feed: Mapping[str, Array]
    marks: Sequence[Mark | Skip] = ()
    lies: Sequence[Mark] = ()
    expected: Callable[[Mapping[str, Array], Cut], Mapping[str, Array]] | None = None

    def outputs(self, cut: Cut) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
        """Return a function that computes the outputs after a cut, narrowed as callers get them."""
        expected = self.expected
        if expected is not None:
            return lambda feed: expected(feed, cut)
        masked = running(self.masked(cut))
        return lambda feed: self.narrowed(masked(feed), cut)

    def masked(self, cut: Cut) -> ModelProto:
        """Return the model with the zeros of units multiplied in where the builder computes them."""
        made = ModelProto()
        made.CopyFrom(self.model)
        for number, mark in enumerate(self.marks):
            if mark.dead(cut).any():
                _silence(made.graph, mark, cut, number)
        return made

    def narrowed(self, arrays: Mapping[str, Array], cut: Cut) -> dict[str, Array]:
        """Return inputs or outputs as they are after a cut."""
        found = dict(arrays)
        for mark in self.lies:
            if mark.value in found:
                found[mark.value] = mark.narrowed(found[mark.value], cut)
        return found

    def feeds(self) -> list[Mapping[str, Array]]:
        """Return the inputs, and others of which each named dimension is one longer."""
        longer, random = {}, np.random.default_rng(1)
        for info in self.model.graph.input:
            array = self.feed[info.name]
            dims = info.type.tensor_type.shape.dim
            shape = [size + bool(dim.dim_param) for size, dim in zip(array.shape, dims, strict=True)]
            floats = array.dtype.kind == "f"
            made = random.uniform(-1, 1, shape) if floats else np.resize(array, shape)
            longer[info.name] = made.astype(array.dtype)
        changed = any(longer[name].shape != array.shape for name, array in self.feed.items())
        return [self.feed, longer] if changed else [self.feed]


def _silence(graph: GraphProto, mark: Mark | Skip, cut: Cut, number: int) -> None:
    """Put the zeros of a mark behind each node that outputs its value, in bodies too."""
    for at, node in reversed(list(enumerate(graph.node))):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _silence(attribute.g, mark, cut, number)
        if mark.value in node.output:
            inner = f"{mark.value}/marked{number}"
            node.output[list(node.output).index(mark.value)] = inner
            made, stored = mark.node(inner, mark.value, cut)
            if stored is not None:
                stored.name = made.input[1] = f"{stored.name}{number}"
                graph.initializer.append(stored)
            graph.node.insert(at + 1, made)


class Net(GraphBuilder):
    """A graph with inputs for a feed, and parts that are spelled as a blueprint says."""

    def __init__(self, plan: Blueprint = PLAIN, dtype: Any = np.float32, seed: int = 7) -> None:
        super().__init__(dtype, seed)
        self.plan = plan
        self.inputs: list[ValueInfoProto] = []
        self.feed: dict[str, Array] = {}
        self.marks: list[Mark | Skip] = []
        self.lies: list[Mark] = []

    def mark(
        self,
        value: str,
        axis: int,
        owners: Owners | int,
        site: str = "0",
        *,
        fill: float = 0.0,
        sizes: tuple[int, ...] = (-1,),
    ) -> str:
        """Note that units lie along an axis of a value, which is returned."""
        listed = each(owners) if isinstance(owners, int) else owners
        self.marks.append(Mark(site, value, axis, listed, fill, sizes))
        return value

    def lie(self, name: str, axis: int, owners: Owners | int, site: str = "0") -> str:
        """Note that units lie along an axis of an input or output, which is returned."""
        self.lies.append(Mark(site, name, axis, each(owners) if isinstance(owners, int) else owners))
        return name

    def skip(self, value: str, before: str, site: str) -> str:
        """Note that a layer lies between two states; the one behind it is returned."""
        self.marks.append(Skip(site, value, before))
        return value

    def input(self, name: str, shape: Sequence[int], letters: str, dtype: Any = None) -> str:
        known = [
            f"dim_{c}" if c in "bsp" and self.plan.symbolic else n
            for c, n in zip(letters, shape, strict=True)
        ]
        array = self.random(*shape) if dtype is None else self.rng.integers(0, 9, shape).astype(dtype)
        self.inputs.append(self.info(name, known, helper.np_dtype_to_tensor_dtype(array.dtype)))
        self.feed[name] = array
        return name

    def random(self, *shape: int) -> Array:
        return self.rng.uniform(-1, 1, shape).astype(self.dtype)

    def weight(self, name: str, *shape: int) -> str:
        return self.stored(name, self.random(*shape))

    def stored(self, stem: str, value: Any) -> str:
        """A tensor under a new name."""
        return self.constant(self.name(stem), value)

    def tensors(self, **shapes: Sequence[int]) -> None:
        """Weights under these very names, for `text`."""
        for name, shape in shapes.items():
            self.constant(name, self.random(*shape))

    def lists(self, **numbers: Sequence[int]) -> None:
        """Lists of integers under these very names, for `text`."""
        for name, listed in numbers.items():
            self.constant(name, np.array(listed, np.int64))

    def text(self, body: str) -> None:
        """Nodes as ONNX text, under the names that it gives."""
        graph = onnx.parser.parse_graph(f"g (float[n] x) => (float y) {{ {body} }}")
        self.nodes.extend(graph.node)

    def number(self, value: float, dtype: Any = np.int64) -> str:
        return self.stored("number", np.array(value, dtype=dtype))

    def reshape(self, data: Any, target: Sequence[int | str]) -> Any:
        """A target of numbers and of "b" and "s", spelled as the blueprint says."""
        spelled = self.plan.target
        numbers = {"b": self.plan.B, "s": self.plan.S}
        if spelled == "shape":
            shape = self.op("Shape", data)
            axes = {"b": 0, "s": 1}
            pieces = [self.piece(shape, axes[n]) if isinstance(n, str) else self.ints(n) for n in target]
            return self.op("Reshape", data, self.op("Concat", *pieces, axis=0))
        replaced = {"constant": numbers, "zero": {"b": 0, "s": 0}, "minus": {"b": 0, "s": -1}}[spelled]
        return self.op(
            "Reshape", data, self.ints(*(replaced[n] if isinstance(n, str) else n for n in target))
        )

    def piece(self, shape: Any, axis: int) -> Any:
        scalar = self.op("Gather", shape, self.stored("axis", np.array(axis)), axis=0)
        return self.op("Unsqueeze", scalar, self.ints(0))

    def length(self, data: Any, axis: int) -> Any:
        """The length of an axis, in a list of one number."""
        return self.piece(self.op("Shape", data), axis)

    def rows(self, data: Any, start: Any, stop: Any, axis: int = 1, step: int = 1) -> Any:
        """A part of an axis, by numbers or computed bounds."""
        bounds = [self.ints(item) if isinstance(item, int) else item for item in (start, stop)]
        return self.op("Slice", data, *bounds, self.ints(axis), *([self.ints(step)] if step != 1 else []))

    def linear(self, data: Any, stem: str, rows: int, columns: int) -> Any:
        """[b, s, rows] -> [b, s, columns]."""
        bias = self.weight(f"{stem}_bias", columns) if self.plan.bias else None
        if self.plan.gemm:
            flat = self.op("Reshape", data, self.ints(-1, rows))
            inputs = [flat, self.weight(stem, columns, rows)] + ([bias] if bias is not None else [])
            made = self.op("Gemm", *inputs, transB=1)
            if self.plan.target == "shape":
                shape = self.op("Shape", data)
                pieces = [self.piece(shape, 0), self.piece(shape, 1), self.ints(columns)]
                return self.op("Reshape", made, self.op("Concat", *pieces, axis=0))
            if self.plan.symbolic:
                # The exporter cannot write two unknown dimensions: it takes them from the input.
                head = self.op("Slice", self.op("Shape", data), self.ints(0), self.ints(2))
                return self.op("Reshape", made, self.op("Concat", head, self.ints(columns), axis=0))
            return self.op("Reshape", made, self.ints(-1, self.plan.S, columns))
        made = self.op("MatMul", data, self.weight(stem, rows, columns))
        return self.op("Add", made, bias) if bias is not None else made

    def export(self, outputs: Sequence[str | ValueInfoProto]) -> ModelProto:
        """The model with these outputs, without tensors that no node reads."""
        read = names_read(self.nodes)
        self.initializers = [tensor for tensor in self.initializers if tensor.name in read]
        infos = [self.info(item, None) if isinstance(item, str) else item for item in outputs]
        made = self.model(self.inputs, infos, self.plan.opset)
        for domain in sorted({node.domain for node in self.nodes} - {""}):
            made.opset_import.append(helper.make_opsetid(domain, 1))
        return made

    def drawn(self, outputs: Sequence[str | ValueInfoProto]) -> Graph:
        """The graph with these outputs and all that is known of it."""
        return Graph(self.export(outputs), self.feed, tuple(self.marks), tuple(self.lies))
