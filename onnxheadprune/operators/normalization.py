"""Normalizations, and embeddings fused with them: exact where the live axis is not among those they mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto

from onnxheadprune.edit.edits import Edit, SetAttribute
from onnxheadprune.liveness.axes import broadcast_back
from onnxheadprune.liveness.live import Live
from onnxheadprune.liveness.refusals import Reason, Refusal, coupled, refuse, unknown_shape
from onnxheadprune.liveness.registry import Answer, beside, mixing, rank_of, rule
from onnxheadprune.model.graph.facts import (
    ADDS_AND_NORMALIZES,
    DIVIDES_BY_NORM,
    NORMALIZES,
    ROUNDS_ACTIVATIONS,
    STANDS_FOR_PATTERN,
)
from onnxheadprune.model.graph.tables import Roles, Shapes, declare, shape_function
from onnxheadprune.model.graph.view import Node

_TABLES = {0: 2, 1: 4, 8: 3}
"""Words, segments and positions, each with a table of its own."""
_MASK_INDEX = {1: int(TensorProto.INT32)}
declare(
    "EmbedLayerNormalization",
    domain="com.microsoft",
    roles=Roles(
        rows=_TABLES,
        masks=(7,),
        alike=(2, 3, 4, 5, 6),
        alike_by_output={1: ()},
        types=_MASK_INDEX,
        learned=(5, 6),
    ),
)
declare(
    "QEmbedLayerNormalization",
    domain="com.microsoft",
    kinds=(ROUNDS_ACTIVATIONS,),
    roles=Roles(
        rows={0: 2, 1: 4}, masks=(7,), alike=(8, 9, 10, 11, 12), alike_by_output={1: ()}, types=_MASK_INDEX
    ),
)
declare("BiasAdd", domain="com.microsoft", roles=Roles(alike=(0, 1, 2), learned=(1,)))
declare(
    "LayerNormalization",
    "GroupNormalization",
    kinds=(NORMALIZES, STANDS_FOR_PATTERN),
    roles=Roles(learned=(1, 2)),
)
declare("RMSNormalization", kinds=(NORMALIZES, STANDS_FOR_PATTERN), roles=Roles(learned=(1,)))
declare("SimplifiedLayerNormalization", kinds=(NORMALIZES,), roles=Roles(alike=(0,), learned=(1,)))
declare("MeanVarianceNormalization", kinds=(NORMALIZES,))
declare("InstanceNormalization", kinds=(NORMALIZES,), roles=Roles(learned=(1, 2)))
declare(
    "SimplifiedLayerNormalization",
    domain="com.microsoft",
    kinds=(NORMALIZES,),
    roles=Roles(alike=(0,), learned=(1,)),
)
declare("LpNormalization", kinds=(DIVIDES_BY_NORM,))
_STATISTICS = {1: int(TensorProto.FLOAT), 2: int(TensorProto.FLOAT)}
"""Mean and inverse standard deviation are computed in single precision whatever the others are."""
declare(
    "SkipLayerNormalization",
    domain="com.microsoft",
    kinds=(ADDS_AND_NORMALIZES,),
    roles=Roles(
        alike=(0, 1, 2, 3),
        alike_by_output=dict.fromkeys(_STATISTICS, ()),
        types=_STATISTICS,
        learned=(2, 3, 4),
    ),
)
declare(
    "SkipSimplifiedLayerNormalization",
    domain="com.microsoft",
    kinds=(ADDS_AND_NORMALIZES,),
    roles=Roles(
        alike=(0, 1, 2, 3), alike_by_output=dict.fromkeys(_STATISTICS, ()), types=_STATISTICS, learned=(2, 3)
    ),
)
# Means and variances of a BatchNormalization are statistics of the data that the model was trained on.
declare("BatchNormalization", roles=Roles(learned=(1, 2)))


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


@shape_function(
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    "LpNormalization",
    "InstanceNormalization",
    "GroupNormalization",
    "BatchNormalization",
    "MeanVarianceNormalization",
)
@shape_function("SimplifiedLayerNormalization", "BiasAdd", domain="com.microsoft")
def _normalization_shape(node: Node) -> Shapes:
    return [node.shape(0)]


@shape_function("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain="com.microsoft")
def _skip_shape(node: Node) -> Shapes:
    return [node.shape(0), None, None, node.shape(0)][: len(node.outputs)]


@rule("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", ragged=True, runs=True)
def _layer_normalization(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Mix every axis from `axis` on; scale and bias run along those, or are broadcast to the whole input.

    torch.onnx.export fills a scale as large as the input where a RMSNorm has none.
    """
    rank, shape = rank_of(node), node.shape(0)
    if rank is None or shape is None:
        return unknown_shape(node)
    first = node.attribute("axis", -1) % rank
    live = beside(lives[0], range(first, rank))
    if live is None:
        return coupled(node)
    if any(output is not None and output.consumers for output in node.outputs[1:]):
        return refuse(node, Reason.INEXPRESSIBLE, f"the statistics of {node.op_type} are used elsewhere")
    inputs = {0: live}
    for index in (1, 2):
        vector = node.input(index)
        if vector is None or len(vector.shape or ()) == 1:
            continue
        along = None if vector.shape is None else broadcast_back(live, vector.shape, shape)
        if along is None:
            return unknown_shape(node)
        inputs[index] = along
    return Answer(inputs, kept=(live, *lives[1:]))


@rule("SimplifiedLayerNormalization", domain="com.microsoft", ragged=True, runs=True)
def _microsoft_layer_normalization(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """ONNX Runtime's spelling of RMSNormalization."""
    return _layer_normalization(node, lives)


@rule("LpNormalization", ragged=True, runs=True)
def _lp_normalization(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Mix one axis."""
    rank = rank_of(node)
    if rank is None:
        return unknown_shape(node)
    mixed = node.attribute("axis", -1) % rank
    return mixing(node, lives[0], {mixed})


@rule("MeanVarianceNormalization", ragged=True)
def _mean_variance_normalization(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Mix the listed axes, all but the channels (axis 1) if none are listed."""
    rank = rank_of(node)
    if rank is None:
        return unknown_shape(node)
    return mixing(node, lives[0], {axis % rank for axis in node.attribute("axes", [0, 2, 3])})


@rule("InstanceNormalization")
def _instance_normalization(node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """Mix the spatial axes; scale and bias run along the channels (axis 1)."""
    live = lives[0]
    if any(axis > 1 for axis in live.axes):
        return coupled(node)
    channels = live.only([1])
    vector = channels.renumbered({1: 0}) if channels.axes else channels
    return Answer({0: live, 1: vector, 2: vector})


@rule("GroupNormalization")
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


@rule("BatchNormalization")
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
