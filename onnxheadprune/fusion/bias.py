"""Everything that is added to the scores, as the one bias `[B or 1, H or 1, S, T]` that fused operators take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto, helper

from onnxheadprune.fusion.emit import IMPOSSIBLE, Emitter, Tensor, view_cost
from onnxheadprune.fusion.match import Bias
from onnxheadprune.fusion.walk import Axis, Layout, flat, size_of
from onnxheadprune.model.graph.types import type_of
from onnxheadprune.model.graph.view import Value

_WIDTH: dict[int, int] = {TensorProto.DOUBLE: 8, TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2}
_LOWEST: dict[int, float] = {
    TensorProto.FLOAT: float(np.finfo(np.float32).min),
    TensorProto.FLOAT16: -65504.0,
}


@dataclass(frozen=True)
class ScoreAxes:
    """The atoms of the scores, and where the lengths of its last two axes can be read at run time.

    Attributes:
        batch, heads, queries, keys: the atoms.
        query_length, key_length: a tensor and which of its axes is that long.
    """

    batch: Axis
    heads: Axis
    queries: Axis
    keys: Axis
    query_length: tuple[Tensor, int]
    key_length: tuple[Tensor, int]
    elem_type: int  # the type that the operator computes in
    zero_nan: bool  # whether a row that is masked as a whole counts as zeros
    lowest_is_masked: bool  # whether the operator takes the lowest number for minus infinity


def why_not(biases: tuple[Bias, ...], axes: ScoreAxes) -> str | None:
    """Return why the biases cannot be brought into shape, None if they can."""
    for bias in biases:
        target = _target(bias, axes)
        if target is None:
            return f"{bias.value.name} tells some heads or batches apart and repeats others"
        cost = view_cost(bias.layout, target)
        if cost >= IMPOSSIBLE or not _holds(bias, target):
            return f"the shape of {bias.value.name} does not fit the scores"
    return None


def tells_heads_apart(biases: tuple[Bias, ...], axes: ScoreAxes) -> bool:
    """Return whether heads have biases of their own."""
    names = {atom.name for atom in axes.heads}
    return any(atom.name in names for bias in biases for atom in flat(bias.layout))


def emit_bias(emitter: Emitter, biases: tuple[Bias, ...], axes: ScoreAxes) -> tuple[str, str]:
    """The sum of all biases, expanded over queries and keys, and which rows of it hide every key.

    Returns:
        The bias, "" if there is none; and a mask `[B or 1, H or 1, S or 1, 1]` that is true where a row is minus
        infinity as a whole, "" where the operator itself answers with what is no number.
    """
    if not biases:
        return "", ""
    # Layers usually share their mask: then one expanded bias serves them all.
    key = (
        emitter.before.scope.ref,
        *(
            (id(bias.value), bias.layout, bias.factor, _fill_key(bias.fill), bias.masked_if)
            for bias in biases
        ),
        *(tuple(str(size_of(axis)) for axis in (axes.queries, axes.keys))),
        axes.elem_type,
        axes.zero_nan,
        axes.lowest_is_masked,
    )
    shared = emitter.names.shared
    if key not in shared:
        terms = [_term(emitter, bias, axes) for bias in biases]
        while len(terms) > 1:
            left, right = terms.pop(0), terms.pop(0)
            layout = tuple(a or b for a, b in zip(left.layout, right.layout, strict=True))
            terms.insert(0, Tensor(emitter.node("Add", (left.name, right.name), "bias"), layout))
        if axes.zero_nan and axes.lowest_is_masked:
            top = emitter.along("ReduceMax", terms[0].name, -1, "highest")
            hidden = emitter.node("IsInf", (top,), "hidden", detect_positive=0)
            shared[*key, "hidden"] = Tensor(hidden, (*terms[0].layout[:3], ()))
        certain = not any(bias.doubtful for bias in biases)
        shared[key] = _expanded(emitter, _floored(emitter, terms[0], axes), axes, certain)
    hidden_rows = shared.get((*key, "hidden"))
    return shared[key].name, "" if hidden_rows is None else hidden_rows.name


def _fill_key(fill: Value | None) -> object:
    literal = None if fill is None else fill.literal()
    return id(fill) if literal is None else literal.tobytes()


def _target(bias: Bias, axes: ScoreAxes) -> Layout | None:
    """Four axes, those that the bias does not have left empty."""
    present = {atom.name for atom in flat(bias.layout)}
    target: list[Axis] = []
    for axis in (axes.batch, axes.heads, axes.queries, axes.keys):
        own = tuple(atom for atom in axis if atom.name in present)
        if own and len(own) != len(axis):
            return None
        target.append(own)
    return tuple(target)


def _holds(bias: Bias, target: Layout) -> bool:
    """Return whether the view stays right where a doubtful axis turns out to be one long.

    It does if that axis stays an axis, and if its length is copied when the model runs, not written down.
    """
    if bias.layout == target:
        return True
    return all(
        bias.layout[axis] in target and not isinstance(size_of(bias.layout[axis]), int)
        for axis in bias.doubtful
    )


def _term(emitter: Emitter, bias: Bias, axes: ScoreAxes) -> Tensor:
    tensor = Tensor(bias.value.name, bias.layout)
    target = _target(bias, axes)
    assert target is not None
    elem_type = type_of(bias.value)
    if bias.fill is not None:
        name, elem_type = _fill(emitter, bias, bias.fill, axes)
        tensor = Tensor(name, bias.layout)
    elif bias.factor != 1.0:
        factor = emitter.number(bias.factor, dtype_name(elem_type or axes.elem_type))
        tensor = Tensor(emitter.node("Mul", (tensor.name, factor), "bias"), tensor.layout)
    if elem_type == TensorProto.UNDEFINED:
        query = axes.query_length[0].name
        return emitter.view(
            Tensor(emitter.node("CastLike", (tensor.name, query), "cast"), tensor.layout), target
        )
    if elem_type != axes.elem_type:
        tensor = Tensor(_narrowed(emitter, tensor.name, elem_type, axes), tensor.layout)
    return emitter.view(tensor, target)


def _fill(emitter: Emitter, bias: Bias, fill: Value, axes: ScoreAxes) -> tuple[str, int]:
    elem_type = type_of(fill) or axes.elem_type
    zero = emitter.number(0, dtype_name(elem_type))
    chosen = (fill.name, zero) if bias.masked_if else (zero, fill.name)
    return emitter.node("Where", (bias.value.name, *chosen), "mask"), elem_type


def _narrowed(emitter: Emitter, name: str, elem_type: int, axes: ScoreAxes) -> str:
    """The bias in the operator's type.

    The lowest number of a wide type must not become minus infinity, or a row that is masked as a whole would
    no longer be a number. Where such rows count as zeros anyway, it may.
    """
    if elem_type in _WIDTH and axes.elem_type in _WIDTH and not axes.zero_nan:
        lowest = _LOWEST[axes.elem_type]
        if _WIDTH[elem_type] > _WIDTH[axes.elem_type]:
            floor = emitter.number(lowest, dtype_name(elem_type))
            name = emitter.node("Max", (name, floor), "floor")
    return emitter.node("Cast", (name,), "cast", to=axes.elem_type)


def dtype_name(elem_type: int) -> str:
    """NumPy's name of an element type."""
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(elem_type)).name)


def _floored(emitter: Emitter, tensor: Tensor, axes: ScoreAxes) -> Tensor:
    """The bias without minus infinity and the lowest number, where an operator takes both for the same.

    Softmax makes equal weights of a row of lowest numbers, and no number of one of minus infinities; what such an
    operator makes of them differs from release to release. The second lowest number swallows scores as well, and
    rows that hide every key are told apart before.
    """
    if not axes.lowest_is_masked or axes.elem_type not in _LOWEST:
        return tensor
    dtype = dtype_name(axes.elem_type)
    # Both in an array of that type: before NumPy 2 a Python number next to a scalar made float64 of it.
    lowest, zero = np.array([_LOWEST[axes.elem_type], 0], dtype)
    floor = emitter.number(float(np.nextafter(lowest, zero)), dtype)
    return Tensor(emitter.node("Max", (tensor.name, floor), "floor"), tensor.layout)


def _expanded(emitter: Emitter, tensor: Tensor, axes: ScoreAxes, certain: bool) -> Tensor:
    """The bias spelled out over queries and keys, as the operators demand."""
    if certain and tensor.layout[2] == axes.queries and tensor.layout[3] == axes.keys:
        return tensor
    sizes = (size_of(axes.queries), size_of(axes.keys))
    layout = (*tensor.layout[:2], axes.queries, axes.keys)
    if all(isinstance(size, int) for size in sizes):
        goal = emitter.integers(1, 1, *(size for size in sizes if isinstance(size, int)))
    else:
        lengths = [
            emitter.integers(size) if isinstance(size, int) else emitter.size(*source)
            for size, source in zip(sizes, (axes.query_length, axes.key_length), strict=True)
        ]
        goal = emitter.node("Concat", (emitter.integers(1, 1), *lengths), "length", axis=0)
    return Tensor(emitter.node("Expand", (tensor.name, goal), "expanded"), layout)
