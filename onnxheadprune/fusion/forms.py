"""The fused operators, and how a matched attention is written as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from onnx import TensorProto

from onnxheadprune.edit.edits import Attribute, DropNode
from onnxheadprune.fusion.bias import ScoreAxes, dtype_name, emit_bias, tells_heads_apart, why_not
from onnxheadprune.fusion.emit import (
    IMPOSSIBLE,
    Emitter,
    Form,
    Names,
    Tap,
    Tensor,
    packed,
    spread,
    tap,
    view_cost,
)
from onnxheadprune.fusion.match import Match, cannot
from onnxheadprune.fusion.walk import Axis, Layout, Place, downstream, size_of, upstream
from onnxheadprune.liveness.refusals import Refusal

Attributes: TypeAlias = dict[str, Attribute]
HEAD_SIZE_UNIT = 8


@dataclass(frozen=True)
class _Given:
    """The inputs of a fused operator.

    Attributes:
        query, key, value: the operands.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    bias: str  # what is added to the scores, "" for nothing
    heads: int  # query heads
    kv_heads: int  # key/value heads

    @property
    def operands(self) -> tuple[str, str, str]:
        """Their names."""
        return self.query.name, self.key.name, self.value.name


Signature: TypeAlias = Callable[[Emitter, _Given], tuple[tuple[str, ...], Attributes]]
"""Inputs and attributes of an operator, without the scale; the emitter makes what an input needs."""


def _multi_head(_: Emitter, operands: _Given) -> tuple[tuple[str, ...], Attributes]:
    """Packed operands, and the bias as sixth input."""
    return _trimmed((*operands.operands, "", "", operands.bias)), {"num_heads": operands.heads}


def _group_query(emitter: Emitter, operands: _Given) -> tuple[tuple[str, ...], Attributes]:
    """The lengths of the sequences are inputs; the bias is the eleventh."""
    lengths = _lengths(emitter, operands.query)
    counts: Attributes = {"num_heads": operands.heads, "kv_num_heads": operands.kv_heads, "causal": 0}
    return _trimmed((*operands.operands, "", "", *lengths, "", "", "", operands.bias)), counts


def _standard(_: Emitter, operands: _Given) -> tuple[tuple[str, ...], Attributes]:
    """Operands of four axes show how many heads there are."""
    counts: Attributes = {"q_num_heads": operands.heads, "kv_num_heads": operands.kv_heads}
    return _trimmed((*operands.operands, operands.bias)), {} if len(operands.query.layout) == 4 else counts


def _trimmed(inputs: tuple[str, ...]) -> tuple[str, ...]:
    while inputs and not inputs[-1]:
        inputs = inputs[:-1]
    return inputs


def _group_query_obstacle(axes: tuple[Axis, ...], taps: tuple[Tap, Tap], biased: bool) -> str | None:
    """Return why GroupQueryAttention does not apply, None if it does.

    Without a cache of its own it wants as many keys as queries; its CPU kernel wants head sizes in units of 8.
    Its CUDA kernel rejects a bias, or since July 2026 leaves its fused kernels for it (ONNX Runtime, pull
    request 29525), which MultiHeadAttention does not.
    """
    if biased:
        return "GroupQueryAttention takes a bias in unfused CUDA kernels only"
    _, heads, queries, keys, width, _ = axes
    if size_of(queries) != size_of(keys):
        return "GroupQueryAttention wants as many keys as queries where the cache is not its own"
    size = size_of(width)
    if not isinstance(size, int) or size % HEAD_SIZE_UNIT:
        return f"GroupQueryAttention wants head sizes that are multiples of {HEAD_SIZE_UNIT}"
    if size_of(taps[1].heads) == size_of(heads):
        return "its heads share no keys"
    return None


def _lengths(emitter: Emitter, query: Tensor) -> tuple[str, str]:
    """`seqlens_k` (every sequence's last position) and `total_sequence_length`; the same for all layers."""
    key = ("lengths", emitter.before.scope.ref, *(str(size_of(axis)) for axis in query.layout[:2]))
    shared = emitter.names.shared
    if key not in shared:
        shape = emitter.node("Shape", (query.name,), "shape")
        total = emitter.node("Gather", (shape, emitter.integers(1, scalar=True)), "length", axis=0)
        batch = emitter.node("Gather", (shape, emitter.integers(0)), "batch", axis=0)
        last = emitter.node("Sub", (total, emitter.integers(1, scalar=True)), "last")
        spread = emitter.node("Expand", (last, batch), "lengths")
        shared[key] = Tensor(emitter.node("Cast", (spread,), "lengths", to=int(TensorProto.INT32)), ())
        shared[*key, "total"] = Tensor(emitter.node("Cast", (total,), "total", to=int(TensorProto.INT32)), ())
    return shared[key].name, shared[*key, "total"].name


@dataclass(frozen=True)
class Operator:
    """A fused operator, and the inputs that it can take.

    Attributes:
        op_type, domain: its name.
        query, key, context: the layouts of its operands and its result.
    """

    op_type: str
    domain: str
    query: Form
    key: Form
    context: Form
    grouped: bool  # whether several query heads may share a key/value head
    same_width: bool  # whether values must be as wide as keys
    signature: Signature  # its inputs and attributes
    types: tuple[int, ...]  # element types for which ONNX Runtime has kernels


HALVES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
MULTI_HEAD = Operator(
    "MultiHeadAttention", "com.microsoft", packed, packed, packed, False, False, _multi_head, HALVES
)
MULTI_HEAD_SPREAD = replace(MULTI_HEAD, key=spread, same_width=True)
GROUP_QUERY = Operator(
    "GroupQueryAttention", "com.microsoft", packed, packed, packed, True, True, _group_query, HALVES
)
STANDARD = Operator("Attention", "", spread, spread, spread, True, False, _standard, HALVES)
STANDARD_PACKED = replace(STANDARD, query=packed, key=packed, context=packed)


@dataclass(frozen=True, eq=False)
class Fit:
    """One operator fitted to one attention."""

    operator: Operator
    match: Match  # the attention. query, key, value: where the operands come from.
    query: Tap
    key: Tap
    value: Tap
    # atoms of batch, heads, queries, keys, query features and value features
    axes: tuple[Axis, Axis, Axis, Axis, Axis, Axis]
    output: Place  # the value that the result takes the place of, and what to call its layout
    raw: Layout  # the layout that the operator gives
    cost: int  # nodes around it

    @property
    def kv_heads(self) -> int:
        """Key/value heads that the operator sees."""
        return _count(self.key.heads)

    @property
    def heads(self) -> int:
        """Query heads."""
        return _count(self.axes[1])


def _count(axis: Axis) -> int:
    size = size_of(axis)
    assert isinstance(size, int)
    return size


def fit(match: Match, operator: Operator, near: bool = False) -> Fit | Refusal:
    """An operator fitted to an attention, or why it does not fit.

    Args:
        near: whether the result must take the place of the product itself, not of a view of it.
    """
    elem_type = match.elem_type
    if elem_type not in operator.types:
        name = TensorProto.DataType.Name(elem_type).lower()
        return cannot(match.core, f"{operator.op_type} has no kernel for {name}")
    batch, heads, queries = (match.atoms(role, match.context) for role in "bhs")
    keys, width = (match.atoms(role, match.key.layout) for role in "tk")
    v_width = match.atoms("d", match.context)
    taps = _taps(match, operator, (batch, heads, queries, keys, width, v_width))
    if isinstance(taps, Refusal):
        return taps
    raw = operator.context(batch, heads, queries, v_width)
    raw = tuple(tuple(atom for atom in axis if atom.size != 1) for axis in raw)
    output = _output(match, raw, near)
    cost = sum(item.cost for item in taps) + view_cost(raw, output.layout)
    if cost >= IMPOSSIBLE:
        return cannot(match.core, "its context cannot be brought back into the shape it had")
    axes = (batch, heads, queries, keys, width, v_width)
    fitted = Fit(operator, match, *taps, axes, output, raw, cost)
    score_axes = _score_axes(fitted, Tensor("", ()), Tensor("", ()))
    obstacle = why_not(match.biases, score_axes)
    if obstacle is not None:
        return cannot(match.core, obstacle)
    if (
        match.zero_nan
        and not operator.domain
        and len(raw) == 3
        and tells_heads_apart(match.biases, score_axes)
    ):
        return cannot(
            match.core, "rows without a visible key count as zeros, in each head by a mask of its own"
        )
    return fitted


def _taps(
    match: Match, operator: Operator, axes: tuple[Axis, Axis, Axis, Axis, Axis, Axis]
) -> tuple[Tap, Tap, Tap] | Refusal:
    batch, heads, queries, keys, width, v_width = axes
    query = tap(
        upstream(match.query.value, match.query.layout), operator.query, (batch, heads, queries, width)
    )
    share = operator.grouped
    key = tap(
        upstream(match.key.value, match.key.layout), operator.key, (batch, heads, keys, width), share=share
    )
    value = tap(
        upstream(match.value.value, match.value.layout),
        operator.key,
        (batch, heads, keys, v_width),
        share=share,
        scaled=False,
    )
    if query is None:
        return cannot(match.core, "its queries cannot be brought into the shape of a fused operator")
    if key is None or value is None:
        return cannot(match.core, "its keys or values cannot be brought into the shape of a fused operator")
    if _count(key.heads) != _count(value.heads):
        return cannot(match.core, "keys and values are shared by different numbers of heads")
    if operator.op_type == "GroupQueryAttention":
        obstacle = _group_query_obstacle(axes, (query, key), bool(match.biases))
        if obstacle is not None:
            return cannot(match.core, obstacle)
    if operator.same_width and size_of(width) != size_of(v_width):
        return cannot(match.core, f"{operator.op_type} wants values as wide as keys")
    return query, key, value


def _output(match: Match, raw: Layout, near: bool) -> Place:
    places = downstream(match.core.out, match.context)
    if near:
        return places[0]
    return min(reversed(places), key=lambda place: view_cost(raw, place.layout))


def _score_axes(fitted: Fit, query: Tensor, key: Tensor) -> ScoreAxes:
    batch, heads, queries, keys, *_ = fitted.axes
    match = fitted.match
    positions = [1 if form is packed else 2 for form in (fitted.operator.query, fitted.operator.key)]
    return ScoreAxes(
        batch,
        heads,
        queries,
        keys,
        (query, positions[0]),
        (key, positions[1]),
        match.elem_type,
        match.zero_nan,
        fitted.operator.domain == "",
    )


def emit(fitted: Fit, names: Names) -> Emitter:
    """The edits that put the operator in place of the attention."""
    emitter = Emitter(fitted.match.core, names)
    query, key, value = (
        emitter.repeated(Tensor(item.place.value.name, item.place.layout), item.target)
        for item in (fitted.query, fitted.key, fitted.value)
    )
    bias, hidden = emit_bias(emitter, fitted.match.biases, _score_axes(fitted, query, key))
    scale = fitted.match.factor * fitted.query.place.factor * fitted.key.place.factor
    operands = _Given(query, key, value, bias, fitted.heads, fitted.kv_heads)
    inputs, attributes = fitted.operator.signature(emitter, operands)
    target = fitted.output
    direct = fitted.raw == target.layout and not fitted.match.zero_nan
    name = emitter.node(
        fitted.operator.op_type,
        inputs,
        "attention",
        domain=fitted.operator.domain,
        output=target.value.name if direct else "",
        **attributes,
        scale=float(scale),
    )
    if fitted.match.zero_nan:
        name = _nan_to_zero(emitter, fitted, name, hidden)
    if not direct:
        emitter.view(Tensor(name, fitted.raw), target.layout, target.value.name)
    producer = target.value.producer
    assert producer is not None
    emitter.edits.append(DropNode(producer.ref, producer.op_type))
    return emitter


def _nan_to_zero(emitter: Emitter, fitted: Fit, name: str, hidden: str) -> str:
    """A row without a single visible key is no number in the softmax, and zeros in the original.

    Args:
        hidden: the rows without a visible key; "" where the operator gives no number for them, too.
    """
    zero = emitter.number(0, dtype_name(fitted.match.elem_type))
    if not hidden:
        test = emitter.node("IsNaN", (name,), "masked")
    elif len(fitted.raw) == 3:
        test = emitter.along("Squeeze", hidden, 1, "hidden")
    else:
        test = hidden
    same = fitted.raw == fitted.output.layout
    return emitter.node(
        "Where", (test, zero, name), "context", output=fitted.output.value.name if same else ""
    )
