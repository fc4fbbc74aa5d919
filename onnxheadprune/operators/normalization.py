"""Normalizations, embeddings fused with them, and softmax: exact where the live axis is not among those they mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.index_notation import Notation, broadcast, same_axes
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Reason, Refusal, coupled, refuse, unknown_shape
from onnxheadprune.model.graph.operator import (
    ADDS_AND_NORMALIZES,
    NORMALIZES,
    ROUNDS_ACTIVATIONS,
    STANDS_FOR_PATTERN,
    WEIGHS,
    Roles,
    Shapes,
)
from onnxheadprune.model.graph.view import Node
from onnxheadprune.operators.record import operator

_MASK_INDEX = {1: int(TensorProto.INT32)}
_STATISTICS = {1: int(TensorProto.FLOAT), 2: int(TensorProto.FLOAT)}
"""Mean and inverse standard deviation are computed in single precision whatever the others are."""


def _embedding_shape(node: Node) -> Shapes:
    """The normalised embedding, the length of each sequence, and the sum before the normalisation."""
    ids, table = node.shape(0), node.shape(2)
    if ids is None or table is None:
        return [None] * len(node.outputs)
    embedded = (*ids, table[1])
    # Other kinds of masks list more than the lengths.
    lengths = ids[:1] if node.attribute("mask_index_type", 1) == 1 else None
    return [embedded, lengths, embedded][: len(node.outputs)]


def _same_shape(node: Node) -> Shapes:
    return [node.shape(0)]


def _skip_shape(node: Node) -> Shapes:
    return [node.shape(0), None, None, node.shape(0)][: len(node.outputs)]


def _layer_normalization(node: Node) -> Notation | None:
    """Mix every axis from `axis` on; scale and bias run along those, or are broadcast to the whole input.

    torch.onnx.export fills a scale as large as the input where a RMSNorm has none.
    """
    found = broadcast(node, [0], [1, 2])
    first = node.attribute("axis", -1)
    return None if found is None else replace(found, mixed=frozenset(found.out_axes[first:]))


def _mean_variance_normalization(node: Node) -> Notation | None:
    """Mix the listed axes, all but the channels (axis 1) if none are listed."""
    return same_axes(node, node.attribute("axes", [0, 2, 3]))


def _softmax(node: Node) -> Notation | None:
    """One axis since opset 13, every axis from `axis` on before; a quantized one states which opset it follows."""
    since = node.attribute("opset", 13) if node.domain else node.opset
    axis = node.attribute("axis", -1 if since >= 13 or node.domain else 1)
    return same_axes(node, [axis] if since >= 13 else slice(axis, None))


def _group_normalization(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Mix the channels of a group and all after them: whole groups can go, as heads with a norm of their own."""
    live, shape, groups = lives[0], node.shape(0), node.attribute("num_groups", 0)
    if any(axis > 1 for axis in live.axes):
        return coupled(node)
    if 1 not in live.axes:
        return Answer({0: live})
    channels = None if shape is None else shape[1]
    if not isinstance(channels, int) or not groups or channels % groups:
        return unknown_shape(node)
    along = live.only([1])
    rows = along.array.reshape(groups, -1)
    if not along.numbers_positions and np.any((rows != 0) != (rows[:, :1] != 0)):
        return coupled(node)
    kept = int(np.count_nonzero(rows[:, 0]))
    vector = along.renumbered({1: 0})
    # Before opset 21 there was one scale and bias per group.
    grouped = node.shape(1) == (groups,) != (channels,)
    scale = Live.over((0,), rows[:, 0]) if grouped else vector

    def rewrite(_: Mapping[int, Live]) -> Sequence[Edit]:
        return [SetAttribute(node.ref, "num_groups", kept)]

    return Answer({0: live, 1: scale, 2: scale}, rewrite)


def _batch_normalization(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """At inference an affine map per channel: four vectors along axis 1; in training with statistics of the batch."""
    others = [output for output in node.outputs[1:] if output is not None]
    if any(output.is_read for output in others):
        return refuse(node, Reason.INEXPRESSIBLE, f"the statistics of {node.op_type} are used elsewhere")
    if (others or node.attribute("training_mode", 0)) and any(axis != 1 for axis in lives[0].axes):
        return coupled(node)
    channels = lives[0].only([1])
    vector = channels.renumbered({1: 0}) if channels.axes else channels
    kept = (lives[0], *(vector for _ in node.outputs[1:]))
    return Answer({0: lives[0], 1: vector, 2: vector, 3: vector, 4: vector}, kept=kept)


operator(
    "com.microsoft.EmbedLayerNormalization",
    roles=Roles(
        rows={0: 2, 1: 4, 8: 3},  # words, segments and positions, each with a table of its own
        masks=(7,),
        alike=(2, 3, 4, 5, 6),
        alike_by_output={1: ()},
        types=_MASK_INDEX,
        learned=(5, 6),
    ),
    shape=_embedding_shape,
)
operator(
    "com.microsoft.QEmbedLayerNormalization",
    kinds=(ROUNDS_ACTIVATIONS,),
    roles=Roles(
        rows={0: 2, 1: 4}, masks=(7,), alike=(8, 9, 10, 11, 12), alike_by_output={1: ()}, types=_MASK_INDEX
    ),
    shape=_embedding_shape,
)
operator("com.microsoft.BiasAdd", roles=Roles(alike=(0, 1, 2), learned=(1,)), shape=_same_shape)
operator(
    "LayerNormalization",
    kinds=(NORMALIZES, STANDS_FOR_PATTERN),
    roles=Roles(learned=(1, 2)),
    axes=_layer_normalization,
)
operator(
    "RMSNormalization",
    kinds=(NORMALIZES, STANDS_FOR_PATTERN),
    roles=Roles(learned=(1,)),
    axes=_layer_normalization,
)
operator(
    "SimplifiedLayerNormalization",
    "com.microsoft.SimplifiedLayerNormalization",
    kinds=(NORMALIZES,),
    roles=Roles(alike=(0,), learned=(1,)),
    axes=_layer_normalization,
)
operator(
    "GroupNormalization",
    kinds=(NORMALIZES, STANDS_FOR_PATTERN),
    roles=Roles(learned=(1, 2)),
    shape=_same_shape,
    rule=_group_normalization,
)
operator("MeanVarianceNormalization", kinds=(NORMALIZES,), axes=_mean_variance_normalization)
# Spatial axes are mixed; scale and bias run along the channels.
operator("InstanceNormalization", kinds=(NORMALIZES,), roles=Roles(learned=(1, 2)), axes="nc...,c,c->nc[...]")
operator("LpNormalization", axes=lambda node: same_axes(node, [node.attribute("axis", -1)]))
for _name, _learned in (("SkipLayerNormalization", (2, 3, 4)), ("SkipSimplifiedLayerNormalization", (2, 3))):
    operator(
        f"com.microsoft.{_name}",
        kinds=(ADDS_AND_NORMALIZES,),
        roles=Roles(
            alike=(0, 1, 2, 3),
            alike_by_output=dict.fromkeys(_STATISTICS, ()),
            types=_STATISTICS,
            learned=_learned,
        ),
        shape=_skip_shape,
    )
# Its means and variances are statistics of the data that the model was trained on.
operator("BatchNormalization", roles=Roles(learned=(1, 2)), shape=_same_shape, rule=_batch_normalization)
operator("Softmax", "LogSoftmax", "Hardmax", kinds=(WEIGHS,), axes=_softmax)
operator(
    "com.microsoft.QLinearSoftmax",
    kinds=(ROUNDS_ACTIVATIONS, WEIGHS),
    roles=Roles(alike=(0,)),
    axes=_softmax,
)
operator(
    "com.microsoft.BiasSoftmax",
    kinds=(WEIGHS,),
    roles=Roles(alike=(0, 1)),
    shape=lambda node: [node.shape(0)],
)
