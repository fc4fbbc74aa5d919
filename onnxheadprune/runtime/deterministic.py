"""Random nodes with fixed numbers: the form in which models are compared, measured and trained.

Each operator of the standard that draws numbers is replaced by others that compute them from positions: the same
numbers in every run, and in every model in which the tensor has the same shape, whatever the node is called and
wherever it stands. Limits, probabilities and logits still count. Dropout in training mode runs in inference mode, so
that a cut may narrow what it reads.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.model.bodies import bodies_of, constant_tensor, graphs_in, is_constant
from onnxheadprune.model.graph.operator import (
    DRAWS,
    DRAWS_NORMAL,
    DRAWS_OUTSIDE_STANDARD,
    is_a,
    kind,
    operator_of,
    opset_of,
)
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.messages import copied, insert_nodes

RANDOM = DRAWS | DRAWS_OUTSIDE_STANDARD | kind("Dropout")
"""The operators that draw random numbers, some of them in training mode only."""


def random_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes that draw random numbers, in bodies too.

    Those of local functions are among them once the functions are inlined.
    """
    return [node for _, node, _ in _found(model.graph, {})]


def label(node: NodeProto) -> str:
    """A node as messages name it."""
    return f"{node.op_type} ({node.name or next(filter(None, node.output), 'without outputs')})"


def without_randomness(model: LoadedModel) -> LoadedModel:
    """The model with fixed numbers instead of random ones; itself where it draws none."""
    if not any(_is_fixed(node) for node in random_nodes(model.proto)):
        return model
    made = copied(model.proto)
    opset, types = opset_of(made), _declared_types(made)
    for graph, node, position in reversed(list(_found(made.graph, {}))):
        if not _is_fixed(node):
            continue
        mode = _mode_of(node)
        if mode is not None:
            node.input[mode] = ""
            continue
        replacement = _FixedNumbers(node, opset, types).made
        del graph.node[position]
        insert_nodes(graph, {position: replacement})
    if all(item.domain != CONTRIB for item in made.opset_import):
        made.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return model.changed(made)


def _found(
    graph: GraphProto, outer: Mapping[str, TensorProto]
) -> Iterator[tuple[GraphProto, NodeProto, int]]:
    """Random nodes with their graphs and positions: in order, those in a body before the node that owns it."""
    stored = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    for position, node in enumerate(graph.node):
        for body in bodies_of(node):
            yield from _found(body, stored)
        tensor = constant_tensor(node) if is_constant(node) else None
        if tensor is not None:
            stored[node.output[0]] = tensor
        if _is_random(node, stored):
            yield graph, node, position


def _is_random(node: NodeProto, stored: Mapping[str, TensorProto]) -> bool:
    if node not in RANDOM:
        return False
    position = _mode_of(node)
    if position is None:
        return True
    name = "".join(node.input[position : position + 1])
    mode = stored.get(name)
    return bool(name) and (mode is None or bool(numpy_helper.to_array(mode).any()))


def _mode_of(node: NodeProto) -> int | None:
    """The position of the input without which an operator draws nothing; None for one that always draws."""
    roles = operator_of(node).roles
    return None if roles is None else roles.training_mode


def _is_fixed(node: NodeProto) -> bool:
    """Return whether a random node gets fixed numbers: all but ONNX Runtime's own."""
    return node in DRAWS | kind("Dropout")


def _declared_types(model: ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for graph in graphs_in(model.graph):
        found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        for infos in (graph.input, graph.value_info, graph.output):
            found |= {info.name: info.type.tensor_type.elem_type for info in infos}
    return found


CONTRIB = "com.microsoft"
"""The domain with a Range for every opset."""
_PRIME, _FACTOR = 2**31 - 1, 48271
_STEP, _STEPS = 2**8, 2**23
"""As many numbers as a float distinguishes between 0 and 1, and how many numbers below the prime become one."""
_HAS_CAST_LIKE = 15


class _FixedNumbers:
    """Nodes that replace a random one.

    Attributes:
        made: the nodes, in order; the last one has the name and the output of the random one.
    """

    def __init__(self, node: NodeProto, opset: int, types: Mapping[str, int]) -> None:
        self.made: list[NodeProto] = []
        self._node = node
        self._known = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        drawn = [node.op_type, *sorted((name, str(value)) for name, value in self._known.items())]
        self._salt = zlib.crc32(repr(drawn).encode()) % _PRIME
        if node in DRAWS_NORMAL:
            numbers = self._normal()
        elif is_a(node, "Bernoulli"):
            numbers = self._truths()
        else:
            numbers = self._classes() if is_a(node, "Multinomial") else self._between_limits()
        self._retyped(numbers, opset, types)
        self.made[-1].name = node.name
        self.made[-1].output[0] = node.output[0]

    def _normal(self) -> str:
        """Draw from the normal distribution by Box and Muller."""
        shape = self._shape()
        length = self._add("Sqrt", self._add("Mul", self._add("Log", self._uniform(shape)), self._float(-2)))
        angle = self._add("Mul", self._uniform(shape, salt=1), self._float(2 * np.pi))
        drawn = self._add("Mul", length, self._add("Cos", angle))
        scaled = self._add("Mul", drawn, self._float(self._known.get("scale", 1.0)))
        return self._add("Add", scaled, self._float(self._known.get("mean", 0.0)))

    def _between_limits(self) -> str:
        low, high = self._known.get("low", 0.0), self._known.get("high", 1.0)
        scaled = self._add("Mul", self._uniform(self._shape()), self._float(high - low))
        return self._add("Add", scaled, self._float(low))

    def _truths(self) -> str:
        probability = self._add("Cast", self._node.input[0], to=TensorProto.FLOAT)
        return self._add("Less", self._uniform(self._shape()), probability)

    def _classes(self) -> str:
        """Draw from a softmax as the largest of logits with Gumbel noise."""
        shape, count = self._shape(), self._ints(self._known.get("sample_size", 1))
        rows, classes = (self._add("Gather", shape, self._ints(axis)) for axis in (0, 1))
        logits = self._add("Cast", self._node.input[0], to=TensorProto.FLOAT)
        once = self._add("Reshape", logits, self._add("Concat", rows, self._ints(1), classes, axis=0))
        drawn = self._uniform(self._add("Concat", rows, count, classes, axis=0))
        gumbel = self._add("Neg", self._add("Log", self._add("Neg", self._add("Log", drawn))))
        return self._add("ArgMax", self._add("Add", once, gumbel), axis=2, keepdims=0)

    def _shape(self) -> str:
        if self._node.input:
            return self._add("Shape", self._node.input[0])
        return self._ints(*self._known["shape"])

    def _uniform(self, shape: str, salt: int = 0) -> str:
        """Floats above 0 and below 1, each computed from its position."""
        salted = self._int((self._salt + salt) % _PRIME)
        count = self._add("ReduceProd", shape, keepdims=0)
        places = self._add("Range", self._int(0), count, self._int(1), domain=CONTRIB)
        first = self._rest(self._add("Add", self._add("Mul", places, self._int(_FACTOR)), salted))
        second = self._rest(self._add("Add", self._add("Mul", first, first), first))
        third = self._rest(self._add("Add", self._add("Mul", second, second), salted))
        steps = self._add("Cast", self._add("Div", third, self._int(_STEP)), to=TensorProto.FLOAT)
        middles = self._add("Add", steps, self._float(0.5))
        return self._add("Reshape", self._add("Div", middles, self._float(_STEPS)), shape)

    def _rest(self, number: str) -> str:
        """The remainder by the prime, as opsets without Mod express it."""
        prime = self._int(_PRIME)
        return self._add("Sub", number, self._add("Mul", self._add("Div", number, prime), prime))

    def _retyped(self, numbers: str, opset: int, types: Mapping[str, int]) -> None:
        """Give the numbers the type of what the random node outputs."""
        node = self._node
        elem_type = self._known.get("dtype")
        if elem_type is None and is_a(node, "Multinomial"):
            elem_type = TensorProto.INT32
        if elem_type is None and node.input and opset >= _HAS_CAST_LIKE:
            self._add("CastLike", numbers, node.input[0])
            return
        known = (types.get(name) for name in (*node.output, *node.input))
        self._add("Cast", numbers, to=elem_type or next(filter(None, known), TensorProto.FLOAT))

    def _add(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        name = f"{self._node.output[0]}/deterministic_{len(self.made)}"
        self.made.append(helper.make_node(op_type, inputs, [name], name, domain=domain, **attributes))
        return name

    def _ints(self, *numbers: int) -> str:
        return self._stored(np.array(numbers, np.int64))

    def _int(self, number: int) -> str:
        return self._stored(np.array(number, np.int64))

    def _float(self, number: float) -> str:
        return self._stored(np.array(number, np.float32))

    def _stored(self, numbers: np.ndarray) -> str:
        return self._add("Constant", value=numpy_helper.from_array(numbers))
