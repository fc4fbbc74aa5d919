"""Products of a gradient in float16 and all else in float32, with a loss scale (Micikevicius et al. 2018).

The operands of each product are rounded to float16, and its output is cast to float32: sums, normalisations,
softmax, the loss and the weights keep their precision. Gradients underflow in float16, so the backward
pass starts with a power of two instead of 1, and the gradients are divided by it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxheadprune.choosing.gradients.differentiate import Gradient
from onnxheadprune.choosing.gradients.forward import names_of
from onnxheadprune.edit.gradient_terms import Term, Writer
from onnxheadprune.model.graph.infer import annotate
from onnxheadprune.model.graph.operator import MULTIPLIES_FLOATS, SUMS_PRODUCTS
from onnxheadprune.model.graph.view import GraphView, Node
from onnxheadprune.model.messages import copied, keep, replace_all

PRODUCTS = SUMS_PRODUCTS | MULTIPLIES_FLOATS
SOUND = "sound"
"""Stem of the name of the output that is 0 where all gradients are finite, else NaN."""


@dataclass(frozen=True)
class Halved:
    """A gradient with products in float16."""

    model: ModelProto  # that of the gradient, with one more input and one more output
    scale: str  # name of the input that the backward pass starts with, a scalar
    sound: str  # name of the output that is 0 where all gradients are finite, else NaN


def halved(gradient: Gradient, apart: Collection[str] = ()) -> Halved:
    """The same gradients by products in float16, of the main graph; those in bodies stay unchanged.

    Args:
        apart: inputs that only the loss reads: products with what is made of nothing else stay in float32, too.
    """
    made = copied(gradient.model)
    view = annotate(GraphView(gradient.model))
    writer = Writer(view.main.opset, names_of(made.graph), "half")
    alone = _made_of(view, apart)
    nodes: list[NodeProto] = []
    for node in view.main.nodes:
        before = len(writer.nodes)
        proto = copied(node.proto)
        if _is_product(node) and alone.isdisjoint(proto.input):
            for index, value in enumerate(node.inputs):
                if value is not None:
                    proto.input[index] = writer.term(value).cast(TensorProto.FLOAT16).name
            proto.output[0] = writer.fresh()
            nodes += [*writer.nodes[before:], proto]
            nodes.append(helper.make_node("Cast", [proto.output[0]], [node.out.name], to=TensorProto.FLOAT))
        else:
            nodes.append(proto)
    replace_all(made.graph.node, nodes)
    sound = _unscaled(made, gradient, writer)
    made.graph.initializer.extend(writer.constants)
    return Halved(made, gradient.seed, sound)


def _is_product(node: Node) -> bool:
    """Return whether a node only sums products of float32."""
    if node not in PRODUCTS:
        return False
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return all(value.elem_type == TensorProto.FLOAT for value in values)


def _made_of(view: GraphView, names: Collection[str]) -> set[str]:
    """Names of values that depend only on the given inputs and stored tensors."""
    stored = {value.name for value in view.main.values.values() if value.is_constant}
    found = set(names)
    for node in view.main.nodes:
        read = {value.name for value in node.sources}
        if read & found and read <= found | stored:
            found.update(value.name for value in node.results)
    return found


def _unscaled(model: ModelProto, gradient: Gradient, writer: Writer) -> str:
    """Make the seed an input, divide gradients by it, and return the output that is NaN unless they are finite."""
    graph = model.graph
    keep(graph.initializer, lambda tensor: tensor.name != gradient.seed)
    graph.input.append(helper.make_tensor_value_info(gradient.seed, TensorProto.FLOAT, []))
    scaled = {name: writer.fresh() for name in gradient.outputs.values()}
    for node in graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = scaled.get(name, name)
    start = len(writer.nodes)
    zeros = []
    for name, large in scaled.items():
        writer.node("Div", [large, gradient.seed], [name])
        # Zero times infinity is no number, and neither is a sum with one.
        zero = Term(writer, name, TensorProto.FLOAT) * 0.0
        zeros.append(zero.op("ReduceSum", keepdims=0).name)
    sound = writer.fresh(SOUND)
    writer.node("Sum", zeros, [sound])
    graph.node.extend(writer.nodes[start:])
    graph.output.append(helper.make_tensor_value_info(sound, TensorProto.FLOAT, []))
    return sound
