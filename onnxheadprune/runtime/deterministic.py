"""Random nodes with fixed numbers: the form in which models are compared, measured and trained.

Each operator of the standard that draws numbers is replaced by others that compute them from positions: the same
numbers in every run, and in every model in which the tensor has the same shape, whatever the node is called and
wherever it stands. Limits, probabilities and logits still count. Dropout in training mode runs in inference mode, so
that a cut may narrow what it reads.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from onnxheadprune.edit.gradients import Term

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
        replacement = _fixed(node, opset, types)
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


def _fixed(node: NodeProto, opset: int, types: Mapping[str, int]) -> list[NodeProto]:
    """Nodes that replace a random one, in order; the last one has its name and its output."""
    from onnxheadprune.edit.gradients import Term, Writer

    writer = Writer(opset, (), f"{node.output[0]}/deterministic")
    known = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    drawn = [node.op_type, *sorted((name, str(value)) for name, value in known.items())]
    salt = zlib.crc32(repr(drawn).encode()) % _PRIME
    given = Term(writer, next(iter(node.input), ""), TensorProto.UNDEFINED)
    shape = given.shape() if node.input else writer.integers(known["shape"])
    if node in DRAWS_NORMAL:
        # By Box and Muller.
        length = (_uniform(shape, salt).op("Log") * -2).op("Sqrt")
        angle = _uniform(shape, salt + 1) * (2 * np.pi)
        numbers = length * angle.op("Cos") * known.get("scale", 1.0) + known.get("mean", 0.0)
    elif is_a(node, "Bernoulli"):
        numbers = _uniform(shape, salt).test("Less", given.cast(TensorProto.FLOAT))
    elif is_a(node, "Multinomial"):
        # The largest of logits with Gumbel noise is drawn from their softmax.
        rows, classes = (shape.op("Gather", writer.integers([axis])) for axis in (0, 1))
        count = writer.integers([known.get("sample_size", 1)])
        once = given.cast(TensorProto.FLOAT).reshape(writer.joined([rows, writer.integers([1]), classes]))
        uniform = _uniform(writer.joined([rows, count, classes]), salt)
        gumbel = -(-uniform.op("Log")).op("Log")
        numbers = (once + gumbel).op("ArgMax", to=TensorProto.INT64, axis=2, keepdims=0)
    else:
        low, high = known.get("low", 0.0), known.get("high", 1.0)
        numbers = _uniform(shape, salt) * (high - low) + low
    elem_type = known.get("dtype", TensorProto.INT32 if is_a(node, "Multinomial") else None)
    if elem_type is None and node.input and opset >= _HAS_CAST_LIKE:
        numbers.op("CastLike", given)
    else:
        declared = (types.get(name) for name in (*node.output, *node.input))
        numbers.cast(elem_type or next(filter(None, declared), TensorProto.FLOAT))
    writer.nodes[-1].name, writer.nodes[-1].output[0] = node.name, node.output[0]
    # As nodes, since old versions of the format want stored tensors to be inputs as well.
    stored = (helper.make_node("Constant", [], [item.name], value=item) for item in writer.constants)
    return [*stored, *writer.nodes]


def _uniform(shape: Term, salt: int) -> Term:
    """Floats above 0 and below 1, each computed from its position."""
    zero, one = (shape.writer.number(number, TensorProto.INT64) for number in (0, 1))
    places = zero.op("Range", shape.op("ReduceProd", keepdims=0), one, domain=CONTRIB)
    first = _rest(places * _FACTOR + salt % _PRIME)
    second = _rest(first * first + first)
    third = _rest(second * second + salt % _PRIME)
    return (((third / _STEP).cast(TensorProto.FLOAT) + 0.5) / _STEPS).reshape(shape)


def _rest(number: Term) -> Term:
    """The remainder by the prime, as opsets without Mod express it."""
    return number - number / _PRIME * _PRIME
