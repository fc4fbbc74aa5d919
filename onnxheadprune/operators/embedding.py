"""Embeddings of tokens, fused into one operator."""

from __future__ import annotations

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
