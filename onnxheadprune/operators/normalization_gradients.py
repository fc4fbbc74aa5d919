"""Gradients of normalizations, of softmax, and of reductions along axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx import TensorProto

from onnxheadprune.edit.gradients import (
    Constant,
    Partials,
    Step,
    Term,
    UnknownShapeError,
    decomposition,
    gradient,
)


def _axes(step: Step) -> list[int]:
    """The axes that are normalised, counted from the end."""
    rank = len(step.shape(0))
    return list(range(step.node.attribute("axis", -1) % rank - rank, 0))


def _used_statistics(step: Step) -> bool:
    return any(grad is not None for grad in step.grads[1:])


STATISTICS = Constant("gives statistics that are used elsewhere")


@gradient("LayerNormalization")
def _layer_normalization_gradient(step: Step) -> Partials:
    """With z = (x - mean) / deviation and g = dy scale: dx = (g - mean(g) - z mean(g z)) / deviation."""
    if _used_statistics(step):
        return dict.fromkeys((0, 1, 2), STATISTICS)
    axes, x = _axes(step), step.input(0)
    centred = x - x.mean(axes)
    inverse = _inverse(centred, axes, float(step.node.attribute("epsilon", 1e-5)))
    z = centred * inverse
    partials = _affine(step, z)
    g = step.grad * step.input(1)
    partials[0] = (g - g.mean(axes) - z * (g * z).mean(axes)) * inverse
    return partials


@gradient("RMSNormalization", "SimplifiedLayerNormalization", "com.microsoft.SimplifiedLayerNormalization")
def _rms_normalization_gradient(step: Step) -> Partials:
    """With z = x / rms and g = dy scale: dx = (g - z mean(g z)) / rms."""
    if _used_statistics(step):
        return dict.fromkeys((0, 1), STATISTICS)
    axes, x = _axes(step), step.input(0)
    inverse = _inverse(x, axes, float(step.node.attribute("epsilon", 1e-5)))
    z = x * inverse
    partials = _affine(step, z)
    g = step.grad * step.input(1)
    partials[0] = (g - z * (g * z).mean(axes)) * inverse
    return partials


def _affine(step: Step, z: Term) -> dict[int, Term | Constant]:
    """The gradients of scale and bias, which are broadcast to the input."""
    partials: dict[int, Term | Constant] = {1: step.back(1, step.grad * z)} if 1 in step.wanted else {}
    if 2 in step.wanted:
        partials[2] = step.back(2, step.grad)
    return partials


def _inverse(x: Term, axes: Sequence[int], epsilon: float) -> Term:
    """One over the root of the mean square."""
    return ((x * x).mean(axes) + epsilon).op("Sqrt").op("Reciprocal")


@decomposition("com.microsoft.SkipLayerNormalization")
def _skip_layer_normalization_parts(step: Step) -> list[Term | None]:
    """A sum of up to three, normalised; the sum is an output too."""
    total = _skipped(step, 4)
    inputs = [step.input(2), step.given(3)]
    epsilon = float(step.node.attribute("epsilon", 1e-12))
    return [total.op("LayerNormalization", *inputs, axis=-1, epsilon=epsilon), None, None, total]


@decomposition("com.microsoft.SkipSimplifiedLayerNormalization")
def _skip_rms_normalization_parts(step: Step) -> list[Term | None]:
    """The same without a mean."""
    total, epsilon = _skipped(step, 3), float(step.node.attribute("epsilon", 1e-12))
    return [(total * _inverse(total, [-1], epsilon)) * step.input(2), None, None, total]


def _skipped(step: Step, bias: int) -> Term:
    total = step.input(0) + step.input(1)
    added = step.given(bias)
    return total if added is None else total + added


@decomposition("LpNormalization")
def _lp_normalization_parts(step: Step) -> list[Term | None]:
    """Divided by the norm along one axis."""
    x, axis = step.input(0), step.node.attribute("axis", -1)
    norm = x.reduce("ReduceL2" if step.node.attribute("p", 2) == 2 else "ReduceL1", [axis])
    return [x / norm]


@decomposition("InstanceNormalization")
def _instance_normalization_parts(step: Step) -> list[Term | None]:
    """Normalize each channel over the spatial axes."""
    rank = len(step.shape(0))
    behind = list(range(2, rank))
    x = step.input(0)
    centred = x - x.mean(behind)
    z = centred * _inverse(centred, behind, float(step.node.attribute("epsilon", 1e-5)))
    along = range(1, rank - 1)
    return [z * step.input(1).unsqueeze(along) + step.input(2).unsqueeze(along)]


@decomposition("GroupNormalization")
def _group_normalization_parts(step: Step) -> list[Term | None]:
    """Groups of channels with all that lies after them; scale and bias per channel, or per group before opset 21."""
    shape, groups = step.shape(0), int(step.node.attribute("num_groups", 1))
    if not isinstance(shape[1], int):
        raise UnknownShapeError("its number of channels is not known")
    x = step.input(0)
    rows = x.reshape([0, groups, -1])
    centred = rows - rows.mean([2])
    z = (centred * _inverse(centred, [2], float(step.node.attribute("epsilon", 1e-5)))).reshape(x.shape())
    along = range(1, len(shape) - 1)
    scale, bias = (_per_channel(step, index, groups, shape[1]).unsqueeze(along) for index in (1, 2))
    return [z * scale + bias]


def _per_channel(step: Step, index: int, groups: int, channels: int) -> Term:
    vector, writer = step.input(index), step.writer
    sizes = step.shape(index)
    grouped = step.node.opset < 21 if not isinstance(sizes[0], int) else sizes == (groups,) != (channels,)
    if not grouped:
        return vector
    return vector.unsqueeze([1]).expand(writer.integers([groups, channels // groups])).reshape([channels])


@gradient("BatchNormalization")
def _batch_normalization_gradient(step: Step) -> Partials:
    """At inference an affine map per channel; its statistics are constant."""
    if step.node.attribute("training_mode", 0):
        return {index: Constant("is in training mode") for index in range(5)}
    rank = len(step.shape(0))
    along, others = range(1, rank - 1), [axis for axis in range(rank) if axis != 1]
    scale, mean, variance = (step.input(index) for index in (1, 3, 4))
    inverse = (variance + float(step.node.attribute("epsilon", 1e-5))).op("Sqrt").op("Reciprocal")
    z = (step.input(0) - mean.unsqueeze(along)) * inverse.unsqueeze(along)
    constant = Constant("has running statistics, which stay constant")
    return {
        0: step.grad * (scale * inverse).unsqueeze(along),
        1: (step.grad * z).sum(others, keep=False),
        2: step.grad.sum(others, keep=False),
        3: constant,
        4: constant,
    }


@decomposition("com.microsoft.EmbedLayerNormalization")
def _embedding_parts(step: Step) -> list[Term | None]:
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


@decomposition("com.microsoft.BiasAdd")
def _bias_add_parts(step: Step) -> list[Term | None]:
    """A bias and a residual stream."""
    return [step.input(0) + step.input(1) + step.input(2)]


def _reduced(step: Step) -> list[int]:
    """The axes that are reduced."""
    step.shape(0)
    axes = step.node.reduced_axes
    if axes is None:
        raise UnknownShapeError("its axes are computed")
    return list(axes)


def _kept(step: Step, term: Term) -> Term:
    """The output or its gradient, with the reduced axes of size 1."""
    axes = _reduced(step)
    return term if step.node.attribute("keepdims", 1) else term.unsqueeze(axes)


@gradient("ReduceSum")
def _reduce_sum_gradient(step: Step) -> Partials:
    """The same for every summand."""
    return {0: _kept(step, step.grad).expand(step.input(0).shape())}


@gradient("ReduceMean")
def _reduce_mean_gradient(step: Step) -> Partials:
    """An equal share for every summand."""
    x, shape = step.input(0), step.shape(0)
    sizes = [shape[axis] for axis in _reduced(step)]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) == len(sizes):
        share = step.grad / float(math.prod(known))
    else:
        total, parts = (term.op("Size", to=TensorProto.INT64) for term in (x, step.output()))
        share = step.grad / (total / parts).cast(x.elem_type)
    return {0: _kept(step, share).expand(x.shape())}


@gradient("ReduceMax", "ReduceMin")
def _reduce_extremum_gradient(step: Step) -> Partials:
    """To the elements that are the extremum, in equal shares where several are, as PyTorch's amax does."""
    x = step.input(0)
    hits = x.test("Equal", _kept(step, step.output())).cast(x.elem_type)
    return {0: hits * (_kept(step, step.grad) / hits.sum(_reduced(step)))}


@gradient("ReduceL2")
def _reduce_l2_gradient(step: Step) -> Partials:
    """d|x| = x dx / |x|; nothing at 0."""
    norm = _kept(step, step.output())
    zero = norm.test("Equal", 0.0)
    return {0: step.input(0) * zero.where(0.0, _kept(step, step.grad) / zero.where(1.0, norm))}


@gradient("ReduceL1")
def _reduce_l1_gradient(step: Step) -> Partials:
    """The sign of each."""
    return {0: step.input(0).op("Sign") * _kept(step, step.grad)}


@gradient("ReduceSumSquare")
def _reduce_square_gradient(step: Step) -> Partials:
    """d(x ** 2) = 2 x dx."""
    return {0: step.input(0) * (_kept(step, step.grad) * 2.0)}


@gradient("ReduceLogSumExp")
def _reduce_log_sum_exp_gradient(step: Step) -> Partials:
    """The softmax."""
    return {0: (step.input(0) - _kept(step, step.output())).op("Exp") * _kept(step, step.grad)}


@gradient("Softmax")
def _softmax_gradient(step: Step) -> Partials:
    """Dx = y (dy - sum(dy y)) along the axis."""
    y, axis = step.output(), step.node.attribute("axis", -1)
    weighted = step.grad * y
    return {0: weighted - y * weighted.sum([axis])}


@gradient("LogSoftmax")
def _log_softmax_gradient(step: Step) -> Partials:
    """Dx = dy - exp(y) sum(dy) along the axis."""
    axis = step.node.attribute("axis", -1)
    return {0: step.grad - step.output().op("Exp") * step.grad.sum([axis])}
