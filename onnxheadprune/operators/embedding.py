"""Embeddings of tokens, fused into one operator."""

from __future__ import annotations

from onnx import TensorProto

from onnxheadprune.edit.gradients import Step, decomposition
from onnxheadprune.edit.terms import Term
from onnxheadprune.model.graph.facts import ROUNDS_ACTIVATIONS
from onnxheadprune.model.graph.tables import ROLES, Roles, Shapes, shape_function
from onnxheadprune.model.graph.view import Node

_TABLES = {0: 2, 1: 4, 8: 3}
"""Words, segments and positions, each with a table of its own."""
ROLES.add(("EmbedLayerNormalization",), "com.microsoft", Roles(rows=_TABLES, masks=(7,), learned=(5, 6)))
ROLES.add(("QEmbedLayerNormalization",), "com.microsoft", Roles(rows={0: 2, 1: 4}, masks=(7,)))
ROLES.add(("BiasAdd",), "com.microsoft", Roles(alike=(0, 1, 2), learned=(1,)))
ROUNDS_ACTIVATIONS.add("QEmbedLayerNormalization", domain="com.microsoft")


@shape_function("EmbedLayerNormalization", domain="com.microsoft")
def _embedding_shape(node: Node) -> Shapes:
    """The normalised embedding, the length of each sequence, and the sum before the normalisation."""
    ids, table = node.shape(0), node.shape(2)
    if ids is None or table is None:
        return [None] * len(node.outputs)
    embedded = (*ids, table[1])
    # Other kinds of masks list more than the lengths.
    lengths = ids[:1] if node.attribute("mask_index_type", 1) == 1 else None
    return [embedded, lengths, embedded][: len(node.outputs)]


@shape_function("QEmbedLayerNormalization", domain="com.microsoft")
def _quantized_shape(node: Node) -> Shapes:
    return _embedding_shape(node)[:2]


@shape_function("BiasAdd", domain="com.microsoft")
def _bias_add_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@decomposition("EmbedLayerNormalization", domain="com.microsoft")
def embedding_parts(step: Step) -> list[Term | None]:
    """Rows of up to three tables, added and normalised; the lengths stay with the operator."""
    ids, kinds, given = step.input(0), step.given(1), step.given(8)
    if given is None:
        number = step.writer.number
        length = ids.dim(1).squeeze([0])
        given = number(0, TensorProto.INT64).op("Range", length, number(1, TensorProto.INT64)).unsqueeze([0])
    total = step.input(2).op("Gather", ids, axis=0) + step.input(3).op("Gather", given, axis=0)
    if kinds is not None and step.given(4) is not None:
        total = total + step.input(4).op("Gather", kinds, axis=0)
    epsilon = float(step.node.attribute("epsilon", 1e-12))
    normal = total.op("LayerNormalization", step.input(5), step.input(6), axis=-1, epsilon=epsilon)
    return [normal, None, total]


@decomposition("BiasAdd", domain="com.microsoft")
def bias_add_parts(step: Step) -> list[Term | None]:
    """A bias and a residual stream."""
    return [step.input(0) + step.input(1) + step.input(2)]
