"""A read-only view of a model: nodes and values with producers, consumers and scopes.

Values are objects, not names: the branches of an `If` may both use one name, and a body may read a
value of the graph around it. `Node.index` numbers all nodes of all scopes in one topological order in
which a body's nodes come before the node that owns the body, so a reverse sweep meets the owner first.

What no output depends on (left there by somebody who deleted an output, say) needs nothing and tells against nothing:
such nodes are listed in `GraphView.dead_ends`, and are nobody's consumers.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.model.bodies import constant_tensor, is_constant
from onnxheadprune.model.graph.dims import Dim, Shape, symbol
from onnxheadprune.model.graph.operator import Choice, Operator, Roles, is_random, operator_of
from onnxheadprune.model.storage.reading import Sources, in_memory

_NO_BODIES: Mapping[str, Scope] = MappingProxyType({})
NO_SOURCES: Sources = MappingProxyType({})
_OF_ANY_NUMBER = frozenset({"Concat", "Max", "Mean", "Min", "Sum"})
"""Standard operators on any number of inputs that output a single one as it is."""
MAX_LITERAL_ELEMENTS = 4096
"""Constants up to this many elements are read as numbers (shapes, axes, indices), larger ones are weights."""


class Use(NamedTuple):
    """One consumer of a value: a node and which of its inputs."""

    node: Node
    input_index: int

    @property
    def name(self) -> str:
        """A part of the names of what is made for it: the same in every model that has the node."""
        given = next((value.name for value in self.node.outputs if value is not None), self.node.op_type)
        return f"{given}_{self.input_index}"


@dataclass(eq=False, slots=True)
class Scope:
    """The main graph (`ref` is "main") or one subgraph attribute of a node ("main[7].then_branch")."""

    proto: GraphProto
    ref: str
    parent: Scope | None
    opset: int
    model: ModelProto = field(repr=False)
    sources: Sources = field(repr=False)
    owner: Node | None = None
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def lookup(self, name: str) -> Value | None:
        """The value that `name` means in this scope, outer scopes included."""
        found = self.values.get(name)
        return found if found is not None or self.parent is None else self.parent.lookup(name)

    @property
    def around(self) -> Iterator[Scope]:
        """The scope and those around it, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    @property
    def root(self) -> Scope:
        """The main graph."""
        return self if self.parent is None else self.parent.root

    @property
    def owners(self) -> Iterator[tuple[Node, Scope]]:
        """The nodes in whose bodies the scope lies, innermost first, each with that body."""
        return ((scope.owner, scope) for scope in self.around if scope.owner is not None)


@dataclass(eq=False, slots=True)
class Value:
    """One value of one scope."""

    name: str
    scope: Scope
    producer: Node | None = None
    output_index: int = 0
    consumers: list[Use] = field(default_factory=list)
    tensor: TensorProto | None = None
    is_initializer: bool = False
    is_graph_input: bool = False
    is_graph_output: bool = False
    is_constant: bool = False
    elem_type: int = TensorProto.UNDEFINED
    shape: Shape | None = None
    elements: npt.NDArray[np.object_] | None = None
    folded: npt.NDArray[np.generic] | None = None
    """Numbers computed from literals that are no integers: a step of `ceil(height / 2)`."""

    @property
    def rank(self) -> int | None:
        """Number of axes, None where unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def sources(self) -> list[Value]:
        """The values that it is computed from."""
        return [] if self.producer is None else self.producer.sources

    @property
    def is_read(self) -> bool:
        """True if a node reads the value, or it leaves its graph."""
        return bool(self.consumers) or self.is_graph_output

    @property
    def holds_tensor(self) -> bool:
        """True if the value *is* stored data: an initializer, or the output of a Constant node."""
        return self.tensor is not None

    def literal(self) -> npt.NDArray[Any] | None:
        """The value's numbers where they are known and few: stored in the model, or computed from literals."""
        tensor = self.tensor
        if tensor is None:
            known = self.elements
            if known is None and self.folded is not None:
                return self.folded
            if known is None or not all(isinstance(item, int) for item in known.reshape(-1)):
                return None
            numbers = known.astype(np.int64)
            return (
                numbers.astype(helper.tensor_dtype_to_np_dtype(self.elem_type)) if self.elem_type else numbers
            )
        if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type == TensorProto.STRING:
            return None
        if math.prod(tensor.dims) > MAX_LITERAL_ELEMENTS:
            return None
        return numpy_helper.to_array(tensor)

    def numbers(self) -> npt.NDArray[Any]:
        """The numbers of a stored tensor, read from its file where they are not in memory.

        Raises:
            ValueError: if the value is none.
            ModelError: if the file cannot be read.
        """
        if self.tensor is None:
            raise ValueError(f"{self.name} is no stored tensor")
        return numpy_helper.to_array(in_memory(self.tensor, self.scope.sources))

    def __repr__(self) -> str:
        return f"Value({self.scope.ref}/{self.name})"


@dataclass(eq=False, slots=True)
class Node:
    """One node: its proto, where it stands, and its values (None for an omitted optional input).

    `domain` is the operator's domain, "" for the standard one, `op_type` its name, `operator` its record. An operator
    on any number of inputs that has a single one is an Identity, as exporters write it that do not simplify.
    """

    proto: NodeProto
    scope: Scope
    position: int
    index: int
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    bodies: Mapping[str, Scope]
    opset: int
    op_type: str = field(init=False)
    domain: str = field(init=False)
    operator: Operator = field(init=False)

    def __post_init__(self) -> None:
        # Every analysis asks for these a dozen times a node, and a proto makes a new string each time.
        self.op_type = sys.intern(self.proto.op_type)
        self.domain = "" if self.proto.domain == "ai.onnx" else sys.intern(self.proto.domain)
        if not self.domain and len(self.proto.input) == 1 and self.op_type in _OF_ANY_NUMBER:
            self.op_type = "Identity"
        self.operator = operator_of(self)

    @property
    def ref(self) -> str:
        """A reference that is unique in the model and survives a trip through JSON."""
        return f"{self.scope.ref}[{self.position}]"

    @property
    def roles(self) -> Roles:
        """The roles of its inputs."""
        return self.operator.roles

    @property
    def choice(self) -> Choice | None:
        """The elements of its first input that it picks; None if it picks none, or shapes are unknown."""
        choose = self.operator.choice
        return None if choose is None else choose(self)

    @property
    def label(self) -> str:
        """The node's name in messages."""
        if self.proto.name:
            return f"{self.proto.name} ({self.proto.op_type})"
        given = next((value.name for value in self.outputs if value is not None), self.ref)
        return f"{self.proto.op_type} -> {given}"

    @property
    def sources(self) -> list[Value]:
        """The inputs that are not omitted."""
        return [value for value in self.inputs if value is not None]

    @property
    def computed(self) -> list[Value]:
        """The inputs that depend on the model's inputs."""
        return [value for value in self.inputs if value is not None and not value.is_constant]

    @property
    def results(self) -> list[Value]:
        """The outputs that are not omitted."""
        return [value for value in self.outputs if value is not None]

    @property
    def producers(self) -> list[Node]:
        """The nodes that compute its inputs."""
        return [value.producer for value in self.inputs if value is not None and value.producer is not None]

    @property
    def readers(self) -> list[Node]:
        """The nodes that read its outputs."""
        return [use.node for value in self.outputs if value is not None for use in value.consumers]

    @property
    def reduced_axes(self) -> tuple[int, ...] | None:
        """Of a reduction, the axes that it reduces, in order, counted from the front; None if they are not known."""
        shape, axes = self.shape(0), self.int_list("axes", 1)
        if shape is None or (axes is None and self.input(1) is not None):
            return None
        if axes:
            return tuple(sorted({axis % len(shape) for axis in axes}))
        return () if self.attribute("noop_with_empty_axes", 0) else tuple(range(len(shape)))

    def input(self, index: int) -> Value | None:
        """Input `index`, None where it is omitted or past the end."""
        return self.inputs[index] if index < len(self.inputs) else None

    def shape(self, index: int) -> Shape | None:
        """Shape of input `index`."""
        value = self.input(index)
        return None if value is None else value.shape

    @property
    def out(self) -> Value:
        """The first output."""
        value = self.outputs[0]
        assert value is not None
        return value

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's Python value (strings decoded), or `default`."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                if isinstance(value, bytes):
                    # What is no UTF-8 is no mode or equation that anybody knows, and need not be readable.
                    return value.decode(errors="backslashreplace")
                if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS):
                    return list(value)
                return value
        return default

    def literal(self, index: int) -> npt.NDArray[Any] | None:
        """The numbers of input `index` where they are constant, else None."""
        value = self.input(index)
        return None if value is None else value.literal()

    def int_list(self, attribute: str, input_index: int) -> list[int] | None:
        """An integer list that older opsets keep in an attribute and newer ones in an input."""
        listed = self.attribute(attribute)
        if listed is not None:
            return [int(item) for item in listed]
        literal = self.literal(input_index)
        return None if literal is None else [int(item) for item in literal.reshape(-1)]

    def __repr__(self) -> str:
        return f"Node({self.label})"


def named(dim: Dim | None, node: Node, axis: int) -> Dim:
    """The dimension; an unknown one gets the name of the output and the axis."""
    return symbol(f"{node.out.name}.{axis}") if dim is None else dim


class Contradiction(NamedTuple):
    """A declaration that is ignored: a value, and the shapes that it is declared with and that its operator gives."""

    value: Value
    declared: Shape
    found: Shape

    def __str__(self) -> str:
        declared, found = (f"[{', '.join(map(str, shape))}]" for shape in (self.declared, self.found))
        node = self.value.producer
        maker = "" if node is None else f" by {node.label}"
        return (
            f"{self.value.name} is declared as {declared}, but is {found}{maker}: the declaration is ignored"
        )


class GraphView:
    """All scopes of one model, navigable. Never changes the model it was made from.

    Attributes:
        contradicted: declared shapes that operators contradict, as `annotate` found them.

    Raises:
        ValueError: if a node reads a value that nothing defines before it.
    """

    def __init__(self, model: ModelProto, sources: Sources = NO_SOURCES) -> None:
        self.model, self.sources = model, sources
        self.opsets = {
            ("" if item.domain == "ai.onnx" else item.domain): item.version for item in model.opset_import
        }
        self.nodes: list[Node] = []
        self.scopes: list[Scope] = []
        self.contradicted: list[Contradiction] = []
        self.main = self._add_scope(model.graph, "main", None)
        self.dead_ends = self._set_aside()

    @property
    def needed(self) -> Iterator[Node]:
        """Every node that an output depends on, in order."""
        return (node for node in self.nodes if node not in self.dead_ends)

    @functools.cached_property
    def by_ref(self) -> dict[str, Node]:
        """Every node by its reference."""
        return {node.ref: node for node in self.nodes}

    @functools.cached_property
    def declared(self) -> Mapping[str, frozenset[str]]:
        """The names of the values that each scope declares, by its reference."""
        return {
            scope.ref: frozenset(
                info.name
                for infos in (scope.proto.input, scope.proto.output, scope.proto.value_info)
                for info in infos
            )
            for scope in self.scopes
        }

    def values(self) -> Iterator[Value]:
        """Every value of every scope."""
        for scope in self.scopes:
            yield from scope.values.values()

    def _set_aside(self) -> frozenset[Node]:
        """Nodes that no output depends on; from here on, nothing that they read counts them among its consumers."""
        found: set[Node] = set()
        # Consumers, and the node that owns a body, have higher numbers than what they read and own.
        for node in reversed(self.nodes):
            if node.scope.owner in found or not any(value.is_read for value in node.results):
                found.add(node)
                for value in dict.fromkeys(node.sources):
                    value.consumers = [use for use in value.consumers if use.node is not node]
        return frozenset(found)

    def _add_scope(self, proto: GraphProto, ref: str, parent: Scope | None) -> Scope:
        scope = Scope(proto, ref, parent, self.opsets.get("", 1), self.model, self.sources)
        self.scopes.append(scope)
        for info in proto.input:
            value = Value(info.name, scope, is_graph_input=True)
            scope.values[info.name] = value
        for tensor in proto.initializer:
            value = scope.values.setdefault(tensor.name, Value(tensor.name, scope))
            value.tensor, value.is_initializer, value.is_constant = tensor, True, True
            value.elem_type, value.shape = tensor.data_type, tuple(tensor.dims)
        for sparse in proto.sparse_initializer:
            value = scope.values.setdefault(sparse.values.name, Value(sparse.values.name, scope))
            value.is_constant, value.shape = True, tuple(sparse.dims)
            value.elem_type = sparse.values.data_type
        for position, node_proto in enumerate(proto.node):
            self._add_node(node_proto, scope, position)
        for info in proto.output:
            output = scope.lookup(info.name)
            if output is None:
                raise ValueError(f"graph output {info.name!r} is produced by no node")
            output.is_graph_output = True
        return scope

    def _add_node(self, proto: NodeProto, scope: Scope, position: int) -> None:
        bodies = self._bodies(proto, scope, position)
        inputs: list[Value | None] = []
        for name in proto.input:
            value = scope.lookup(name) if name else None
            if name and value is None:
                raise ValueError(
                    f"node {proto.name!r} ({proto.op_type}) reads {name!r}, which nothing defines"
                )
            inputs.append(value)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        index = len(self.nodes)
        # In a graph without bodies both numbers are equal, and a million of them need not be held twice.
        at = index if index == position else position
        node = Node(proto, scope, at, index, tuple(inputs), (), bodies, self.opsets.get(domain, 1))
        for body in bodies.values():
            body.owner = node
        outputs: list[Value | None] = []
        for index, name in enumerate(proto.output):
            if not name:
                outputs.append(None)
                continue
            value = Value(name, scope, producer=node, output_index=index)
            scope.values[name] = value
            outputs.append(value)
        node.outputs = tuple(outputs)
        for index, item in enumerate(inputs):
            if item is not None:
                item.consumers.append(Use(node, index))
        self._mark_constants(node)
        self.nodes.append(node)
        scope.nodes.append(node)

    def _bodies(self, proto: NodeProto, scope: Scope, position: int) -> Mapping[str, Scope]:
        if not proto.attribute:
            return _NO_BODIES
        graphs = [item for item in proto.attribute if item.type == AttributeProto.GRAPH]
        if not graphs:
            return _NO_BODIES
        ref = f"{scope.ref}[{position}]"
        return {item.name: self._add_scope(item.g, f"{ref}.{item.name}", scope) for item in graphs}

    @staticmethod
    def _mark_constants(node: Node) -> None:
        """Constant means: depends on no graph input. Shape nodes count as dynamic, as do random ones."""
        if is_constant(node):
            tensor = constant_tensor(node.proto)
            node.out.tensor, node.out.is_constant = tensor, True
            if tensor is not None:
                node.out.elem_type, node.out.shape = tensor.data_type, tuple(tensor.dims)
            return
        if node.bodies or not any(node.inputs):
            return
        if all(value is None or value.is_constant for value in node.inputs) and not _is_random(node):
            for output in node.outputs:
                if output is not None:
                    output.is_constant = True


def _is_random(node: Node) -> bool:
    return not node.domain and is_random(node.op_type, node.opset)
