"""From a model and the name of a loss to a model of the loss and its gradients.

Reverse accumulation: backwards from the loss, one node at a time.

Griewank and Walther, Evaluating Derivatives (2008), chapter 3: every value collects what its readers contribute,
and when it has all contributions, its producer's rule computes those of its inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune.choosing.gradients.forward import (
    HALVES,
    active_values,
    forward_part,
    names_of,
    parts_of,
    taken_apart,
    widened,
)
from onnxheadprune.edit.gradients import Attribute, Constant, Step, Term, UnknownShapeError, Writer
from onnxheadprune.edit.submodel import needed_nodes, read_by
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.infer import annotate
from onnxheadprune.model.graph.operator import DEQUANTIZES, is_a, opset_of
from onnxheadprune.model.graph.restated import converted_to
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.graph.walks import reachable
from onnxheadprune.model.messages import copied, keep, replace_all
from onnxheadprune.model.prepare import prepared
from onnxheadprune.model.tensors import FLOATS


def _with_masters(model: ModelProto, parameters: Sequence[str]) -> tuple[ModelProto, dict[str, int]]:
    """The model with its parameters in float32, and the types of those that can be differentiated.

    Float16 and bfloat16 become float32 everywhere, since a gradient in half precision underflows. A quantized weight
    is quantized from its float32 master in the graph.
    """
    types = {info.name: info.type.tensor_type.elem_type for info in model.graph.input}
    made = _requantized(model, [name for name in parameters if types[name] not in FLOATS])
    masters = {info.name: info.type.tensor_type.elem_type for info in made.graph.input}
    masters = {name: masters[name] for name in parameters if masters[name] in FLOATS}
    wide = widened(made, frozenset(masters))
    return wide, {name: TensorProto.FLOAT if kind in HALVES else kind for name, kind in masters.items()}


def _requantized(model: ModelProto, quantized: Sequence[str]) -> ModelProto:
    """Quantized parameters that only a DequantizeLinear per tensor or axis reads; they become inputs in float32."""
    if not quantized:
        return model
    made = copied(model)
    view = annotate(GraphView(made))
    writer = Writer(view.main.opset, names_of(made.graph), "master")
    infos = {info.name: info for info in made.graph.input}
    before: dict[int, list[NodeProto]] = {}
    for name in quantized:
        nodes = [node for node in view.main.nodes if name in read_by(node.proto)]
        if not nodes or any(node not in DEQUANTIZES or not _is_plain(node) for node in nodes):
            continue
        for node in nodes:
            start = len(writer.nodes)
            _quantize(node, infos[name].type.tensor_type.elem_type, writer)
            before[node.position] = writer.nodes[start:]
        infos[name].type.tensor_type.elem_type = TensorProto.FLOAT
    rows = [part for i, node in enumerate(made.graph.node) for part in (*before.get(i, ()), node)]
    replace_all(made.graph.node, (row for row in rows if row.op_type != DROPPED))
    made.graph.initializer.extend(writer.constants)
    return made


DROPPED = ""
"""The operator of a node that goes."""


def _is_plain(node: Node) -> bool:
    scale = node.input(1)
    known = scale is not None and scale.is_initializer and len(scale.shape or ()) <= 1
    return known and not node.attribute("block_size", 0)


def _quantize(node: Node, elem_type: int, writer: Writer) -> None:
    """Put the quantizer of a master before the node that reads it."""
    master, scale, zero = node.proto.input[0], node.input(1), node.input(2)
    assert scale is not None
    if elem_type == TensorProto.INT32:
        # Biases: no quantizer makes int32, and so fine a step need not be seen.
        writer.node("Identity", [master], [node.out.name])
        node.proto.op_type = DROPPED
        return
    assert scale.shape is not None
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    sizes = [size for size in scale.shape if isinstance(size, int)]
    point = zero.name if zero is not None else writer.constant(np.zeros(sizes, dtype))
    axis: dict[str, Attribute] = {item.name: item.i for item in node.proto.attribute if item.name == "axis"}
    (node.proto.input[0],) = writer.node("QuantizeLinear", [master, scale.name, point], 1, node.domain, axis)


@dataclass
class Backward:
    """One backward pass."""

    view: GraphView  # the graph
    active: set[str]  # names of values that depend on parameters
    writer: Writer  # collects the new nodes
    # values that were held constant, with the reason, by name
    held: dict[str, str] = field(default_factory=dict)
    parts: dict[str, list[Term]] = field(default_factory=dict)  # contributions to the gradient of each value

    def run(self, loss: str) -> None:
        """Run backwards from the loss to the parameters."""
        value = self.view.main.values[loss]
        dtype = helper.tensor_dtype_to_np_dtype(value.elem_type)
        seed = self.writer.fresh("seed")
        one = np.ones((1,) * (value.rank or 0), dtype)
        self.writer.constants.append(numpy_helper.from_array(one, seed))
        self.parts[loss] = [Term(self.writer, seed, value.elem_type)]
        for node in self.view.main.nodes:
            if is_a(node, "Transpose") and (order := node.attribute("perm")) and node.inputs[0] is not None:
                self.writer.transposed[node.out.name] = (node.inputs[0].name, tuple(order))
        for node in reversed(self.view.main.nodes):
            grads = tuple(None if value is None else self.total(value.name) for value in node.outputs)
            if any(grad is not None for grad in grads):
                self._visit(node, grads)

    def total(self, name: str) -> Term | None:
        """The gradient with respect to a value, as far as it is known by now."""
        terms = self.parts.get(name)
        if not terms:
            return None
        while len(terms) > 1:
            terms.insert(0, terms.pop(0) + terms.pop(0))
        return terms[0]

    def _visit(self, node: Node, grads: tuple[Term | None, ...]) -> None:
        read = self.active.intersection(read_by(node.proto))
        if not read:
            return
        face = node.operator.gradient
        if face is None:
            parts = parts_of(node, self.active, Writer(self.writer.opset, (), "unused"))
            reason = parts.reason if isinstance(parts, Constant) else "has no gradient"
            self._hold(node, sorted(read), reason)
            return
        inputs = {
            i: value for i, value in enumerate(node.inputs) if value is not None and value.name in self.active
        }
        try:
            partials = face(Step(node, grads, frozenset(inputs), self.writer))
        except UnknownShapeError as error:
            self._hold(node, sorted(read), f"has no gradient here, because {error}")
            return
        for index, value in inputs.items():
            partial = partials.get(index)
            if isinstance(partial, Constant):
                self._hold(node, [value.name], partial.reason)
            elif partial is not None:
                self.parts.setdefault(value.name, []).append(partial)

    def _hold(self, node: Node, names: list[str], reason: str) -> None:
        for name in names:
            self.held.setdefault(name, f"{node.label} {reason}")


FIRST_OPSET = 13
"""Before, axes of sums and squeezes were attributes, which cannot be computed."""
NEW_OPSET = 18
"""The opset that older models are raised to."""


@dataclass(frozen=True)
class Gradient:
    """A model of a loss and its gradients."""

    # its inputs are those of the original and the parameters, unless these hold no real numbers; its outputs
    # are the loss and the gradients
    model: ModelProto
    loss: str  # name of the loss
    # per parameter the name of its gradient, which has its shape, in float32 (float64 stays)
    outputs: Mapping[str, str]
    # per parameter without a gradient the reason; per value that is held constant on the way the node and the
    # reason, even where a parameter after it has a gradient by other ways
    constant: Mapping[str, str]


def differentiate(model: ModelProto | GraphView, loss: str, parameters: Sequence[str]) -> Gradient:
    """The gradients of a scalar with respect to weights, as a model that computes both.

    Batch and sequence stay dynamic. Weights in float16 and bfloat16, and quantized ones that only a
    DequantizeLinear reads, become inputs in float32; rounding to integers counts as the identity within the range.

    Args:
        model: weights that are no parameters may be references to files, and stay so.
    """
    source = prepared(model.model if isinstance(model, GraphView) else model)
    _check(source, loss, parameters)
    part, masters = _with_masters(_recent(forward_part(source, loss, parameters)), parameters)
    part = _stored_again(part, source, set(parameters) - masters.keys())
    part = taken_apart(part, masters)
    view = annotate(GraphView(part))
    value = view.main.values[loss]
    if value.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE) or any(
        dim != 1 for dim in value.shape or ()
    ):
        raise RefusedError(f"{loss} is no single real number")
    writer = Writer(view.main.opset, names_of(part.graph), "gradient")
    walk = Backward(view, active_values(view, masters), writer)
    walk.run(loss)
    return _assembled(part, loss, parameters, masters, walk)


def _check(model: ModelProto, loss: str, parameters: Sequence[str]) -> None:
    stored = {tensor.name for tensor in model.graph.initializer}
    unknown = [name for name in parameters if name not in stored]
    if unknown:
        raise UsageError(f"there is no initializer {unknown[0]!r}")
    if all(loss not in node.output for node in model.graph.node):
        raise UsageError(f"no node of the main graph makes {loss!r}")


def _stored_again(part: ModelProto, source: ModelProto, names: set[str]) -> ModelProto:
    """Store parameters without a gradient again, as in the original."""
    if not names:
        return part
    keep(part.graph.input, lambda info: info.name not in names)
    read = {name for node in part.graph.node for name in read_by(node)}
    part.graph.initializer.extend(
        tensor for tensor in source.graph.initializer if tensor.name in names & read
    )
    return part


def _recent(part: ModelProto) -> ModelProto:
    if opset_of(part) >= FIRST_OPSET:
        return part
    try:
        return converted_to(part, NEW_OPSET)
    except ValueError as error:
        raise RefusedError(
            f"gradients need opset {FIRST_OPSET}; the model has {opset_of(part)}, and cannot be raised: {error}"
        ) from error


def _assembled(
    part: ModelProto, loss: str, parameters: Sequence[str], masters: Mapping[str, int], walk: Backward
) -> Gradient:
    """The forward part with the needed nodes of the backward pass."""
    outputs: dict[str, str] = {}
    constant = dict(walk.held)
    taken = set(walk.view.main.values) | {item.name for item in walk.writer.constants}
    for name in parameters:
        grad = walk.total(name) if name in masters else None
        if grad is None:
            constant[name] = _why(name, masters, walk)
            continue
        # An output is no input, and no other output.
        outputs[name] = (
            walk.writer.node("Identity", [grad.name], [walk.writer.fresh()])[0]
            if grad.name in taken
            else grad.name
        )
        taken.add(outputs[name])
    made = copied(part)
    graph = made.graph
    graph.node.extend(walk.writer.nodes)
    graph.initializer.extend(walk.writer.constants)
    nodes, needed = needed_nodes(graph, [loss, *outputs.values()])
    replace_all(graph.node, nodes)
    keep(graph.initializer, lambda tensor: tensor.name in needed)
    dims = {info.name: info for info in graph.input}
    for name, output in outputs.items():
        shape = [dim.dim_value for dim in dims[name].type.tensor_type.shape.dim]
        graph.output.append(helper.make_tensor_value_info(output, masters[name], shape))
    return Gradient(made, loss, outputs, constant)


def _why(name: str, masters: Mapping[str, int], walk: Backward) -> str:
    """Return why a parameter has no gradient: the first constant value on its path, or a node with integer outputs."""
    if name not in masters:
        return "it holds no real numbers, and is not read by DequantizeLinear alone, by tensor or axis"

    def active(node: Node) -> list[Value]:
        return [value for value in node.results if value.name in walk.active]

    ends: set[str] = set()
    starts = [walk.view.main.values[name]]
    for value in reachable(
        starts, lambda item: [made for use in item.consumers for made in active(use.node)]
    ):
        if value.name in walk.held:
            return walk.held[value.name]
        ends.update(use.node.label for use in value.consumers if not active(use.node))
    if not ends:
        return "the loss does not depend on it"
    return f"it reaches the loss only through what has no gradient: {', '.join(sorted(ends))}"
