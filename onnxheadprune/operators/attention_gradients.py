"""Decompositions of fused attention operators: products, a softmax, and masks that are added to the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import TensorProto

from onnxheadprune.edit.gradients import Constant, Step, Term, UnknownShapeError, decomposition

HIDDEN = -1e38
"""The term that is added to masked scores. Infinity would make NaN of rows without any."""


def _heads_apart(term: Term, heads: int) -> Term:
    """[B, S, H * D] -> [B, H, S, D]."""
    return term.reshape([0, 0, heads, -1]).transpose([0, 2, 1, 3])


def _heads_joined(term: Term) -> Term:
    """[B, H, S, D] -> [B, S, H * D]."""
    return term.transpose([0, 2, 1, 3]).reshape([0, 0, -1])


def _repeated(term: Term, times: int) -> Term:
    """[B, K, T, D] -> [B, K * times, T, D]: neighbouring query heads share keys."""
    if times == 1:
        return term
    integers = term.writer.integers
    target = term.writer.joined([term.dim(0), term.dim(1), integers([times]), term.dim(2), term.dim(3)])
    merged = term.writer.joined([term.dim(0), term.dim(1) * times, term.dim(2), term.dim(3)])
    return term.unsqueeze([2]).expand(target).reshape(merged)


def _attended(
    query: Term, key: Term, value: Term, scale: float | None, biases: Sequence[Term], softcap: float = 0.0
) -> Term:
    """Contexts [B, H, S, Dv] of queries [B, H, S, D], keys [B, H, T, D] and values [B, H, T, Dv].

    Args:
        scale: of the product of queries and keys, None or 0 for one over the root of the head size.
        biases: what is added to the scores, of up to four axes.
        softcap: scores are bent to stay within this, 0 for no limit.
    """
    scaled = query * scale if scale else query / query.dim(3).cast(query.elem_type).op("Sqrt")
    product = scaled @ key.swapped(4)
    if softcap:
        product = (product / softcap).op("Tanh") * softcap
    for bias in biases:
        product = product + bias
    return product.op("Softmax", axis=-1) @ value


def _hidden_unless(allowed: Term, elem_type: int) -> Term:
    """A condition as something to add to scores."""
    number = allowed.writer.number
    return allowed.where(number(0.0, elem_type), HIDDEN)


def _positions(length: Term) -> Term:
    """0, 1, ... up to a length, given as a list of one."""
    integer = length.writer.number
    return integer(0, TensorProto.INT64).op("Range", length.squeeze([0]), integer(1, TensorProto.INT64))


def _window(query: Term, key: Term, past: Term | None, width: int = 0) -> Term:
    """A mask [S, T] of the keys at or before each query, and at most `width` before, if that is given."""
    rows = _positions(query.dim(2)).unsqueeze([1])
    rows = rows if past is None else rows + past.dim(2)
    columns = _positions(key.dim(2)).unsqueeze([0])
    allowed = rows.test("GreaterOrEqual", columns)
    if width > 0:
        allowed = allowed.op("And", (rows - columns).test("Less", width))
    return allowed


def _with_past(past: Term | None, present: Term) -> Term:
    """Keys or values that were cached, and those that are new."""
    return present if past is None else past.writer.joined([past, present], axis=2)


@decomposition("Attention")
def _attention_parts(step: Step) -> list[Term | None] | Constant:
    """The standard operator; rows without a visible key are not told apart."""
    node, apart = step.node, len(step.shape(0)) == 3
    if step.given(6) is not None or any(
        node.attribute(f"{side}_window_size", -1) >= 0 for side in ("left", "right")
    ):
        return Constant("has lengths of its own, or windows")
    counts = [int(node.attribute(name, 0)) for name in ("q_num_heads", "kv_num_heads")]
    operands = [step.input(index) for index in range(3)]
    if apart:
        operands = [_heads_apart(term, counts[min(i, 1)]) for i, term in enumerate(operands)]
    else:
        heads = [step.shape(index)[1] for index in range(2)]
        if not all(isinstance(count, int) for count in heads):
            raise UnknownShapeError("its numbers of heads are not known")
        counts = [int(str(count)) for count in heads]
    query, (key, value) = operands[0], (_with_past(step.given(4 + i), operands[1 + i]) for i in range(2))
    biases = [] if step.given(3) is None else [_mask(step.input(3), query.elem_type)]
    if node.attribute("is_causal", 0):
        biases.append(_hidden_unless(_window(query, key, step.given(4)), query.elem_type))
    softcap, times = float(node.attribute("softcap", 0.0)), counts[0] // counts[1]
    shared, values = _repeated(key, times), _repeated(value, times)
    context = _attended(query, shared, values, node.attribute("scale"), biases, softcap)
    return [_heads_joined(context) if apart else context, key, value]


def _mask(mask: Term, elem_type: int) -> Term:
    return _hidden_unless(mask, elem_type) if mask.elem_type == TensorProto.BOOL else mask


@dataclass(frozen=True)
class Rotation:
    """By which angles features are turned.

    Attributes:
        cos, sin: one row per position, or per token if `positions` is None.
        positions: of the tokens, [B, S] or [1, S].
        interleaved: whether neighbours are turned together, else halves.
        size: how many features are turned; None for twice the width of the rows.
    """

    cos: Term
    sin: Term
    positions: Term | None
    interleaved: bool
    size: int | None = None


def _rotated(x: Term, rotation: Rotation) -> Term:
    """Queries or keys [B, H, S, D], turned."""
    rows = (rotation.cos, rotation.sin)
    if rotation.positions is not None:
        rows = (
            rows[0].op("Gather", rotation.positions, axis=0),
            rows[1].op("Gather", rotation.positions, axis=0),
        )
    cos, sin = (row.unsqueeze([1]) for row in rows)
    half, size = cos.dim(3), cos.dim(3) * 2
    zero, end, last = (x.writer.integers([number]) for number in (0, 2**62, 3))
    turned = x.op("Slice", zero, size, last)
    if rotation.interleaved:
        pairs = turned.reshape(
            x.writer.joined([x.shape().op("Slice", zero, last), half, x.writer.integers([2])])
        )
        first, second = (pairs.op("Gather", x.writer.number(i, TensorProto.INT64), axis=-1) for i in (0, 1))
        parts = [first * cos - second * sin, first * sin + second * cos]
        whole = x.writer.joined([part.unsqueeze([4]) for part in parts], axis=4).reshape(turned.shape())
    else:
        first, second = turned.op("Slice", zero, half, last), turned.op("Slice", half, end, last)
        whole = x.writer.joined([first * cos - second * sin, first * sin + second * cos], axis=3)
    return (
        whole if rotation.size is None else x.writer.joined([whole, x.op("Slice", size, end, last)], axis=3)
    )


@decomposition("RotaryEmbedding")
def _rotary_parts(step: Step) -> list[Term | None] | Constant:
    """The standard operator: without positions the rows belong to the tokens."""
    return _parts(
        step, Rotation(step.input(1), step.input(2), step.given(3), _interleaved(step), _part(step))
    )


@decomposition("com.microsoft.RotaryEmbedding")
def _microsoft_rotary_parts(step: Step) -> list[Term | None] | Constant:
    """ONNX Runtime's spelling; one position is that of the first token."""
    if step.node.attribute("is_packed_batching", 0) or step.node.attribute("scale", 1.0) != 1.0:
        return Constant("rotates packed or scaled")
    ids, shape = step.input(1), step.shape(0)
    if len(step.shape(1)) == 1:
        ids = (ids + _positions(step.input(0).dim(2 if len(shape) == 4 else 1))).unsqueeze([0])
    return _parts(step, Rotation(step.input(2), step.input(3), ids, _interleaved(step), _part(step)))


def _interleaved(step: Step) -> bool:
    return bool(step.node.attribute("interleaved", 0))


def _part(step: Step) -> int | None:
    return step.node.attribute("rotary_embedding_dim", 0) or None


def _parts(step: Step, rotation: Rotation) -> list[Term | None]:
    x, shape = step.input(0), step.shape(0)
    if len(shape) == 4:
        return [_rotated(x, rotation)]
    heads = int(step.node.attribute("num_heads", 0))
    if not heads:
        width = rotation.cos.dim(len(step.shape(1 if step.node.domain == "" else 2)) - 1) * 2
        target = x.writer.joined([x.writer.integers([0, 0, -1]), width])
        return [_heads_back(_rotated(x.reshape(target).transpose([0, 2, 1, 3]), rotation), x)]
    return [_heads_back(_rotated(x.reshape([0, 0, heads, -1]).transpose([0, 2, 1, 3]), rotation), x)]


def _heads_back(term: Term, like: Term) -> Term:
    """[B, H, S, D] in the shape of [B, S, H * D]."""
    return term.transpose([0, 2, 1, 3]).reshape(like.shape())


@decomposition("com.microsoft.MultiHeadAttention")
def _multi_head_parts(step: Step) -> list[Term | None] | Constant:
    """Projections with their biases, heads apart, attention."""
    node, heads = step.node, int(step.node.attribute("num_heads", 0))
    if any(step.given(index) is not None for index in (8, 9)) or step.given(2) is None:
        return Constant("keeps its cache in a buffer, or packs keys and values")
    operands: list[Term] = []
    start = 0
    for index in range(3):
        term, shape, bias = step.input(index), step.shape(index), step.given(3)
        width = shape[-1] if len(shape) == 3 else None
        if bias is not None:
            if not isinstance(width, int):
                raise UnknownShapeError("the width of its input is not known")
            term = term + bias.slice(start, start + width, 0)
            start += width
        operands.append(term if len(shape) == 4 else _heads_apart(term, heads))
    query, (key, value) = operands[0], (_with_past(step.given(6 + i), operands[1 + i]) for i in range(2))
    biases = [] if step.given(5) is None else [step.input(5)]
    padding = _padding_bias(step, 4, query.elem_type)
    if isinstance(padding, Constant):
        return padding
    biases += [] if padding is None else [padding]
    if node.attribute("unidirectional", 0):
        biases.append(_hidden_unless(_window(query, key, step.given(6)), query.elem_type))
    context = _attended(query, key, value, node.attribute("scale"), biases)
    return [_heads_joined(context), key, value]


def _padding_bias(step: Step, index: int, elem_type: int) -> Term | Constant | None:
    """The bias that a mask of ONNX Runtime's operators adds to the scores: `mask_filter_value` where it is 0."""
    mask = step.given(index)
    if mask is None:
        return None
    axes = {2: [1, 2], 3: [1]}.get(len(step.shape(index)))
    if axes is None:
        return Constant("has a mask that lists lengths, or one of four axes")
    filtered = float(step.node.attribute("mask_filter_value", -10000.0))
    seen = mask.cast(TensorProto.BOOL).unsqueeze(axes)
    return seen.where(step.writer.number(0.0, elem_type), filtered)


@decomposition("com.microsoft.Attention")
def _packed_parts(step: Step) -> list[Term | None] | Constant:
    """One projection, cut into queries, keys and values."""
    node, heads, weight = step.node, int(step.node.attribute("num_heads", 0)), step.shape(1)
    if step.given(6) is not None or any(
        node.attribute(name, 0) for name in ("do_rotary", "past_present_share_buffer")
    ):
        return Constant("rotates by itself, or keeps its cache in a buffer")
    if not isinstance(weight[1], int):
        raise UnknownShapeError("the width of its weight is not known")
    widths = node.attribute("qkv_hidden_sizes") or [weight[1] // 3] * 3
    projected = step.input(0) @ step.input(1)
    bias = step.given(2)
    projected = projected if bias is None else projected + bias
    starts = [sum(widths[:index]) for index in range(4)]
    query, key, value = (_heads_apart(projected.slice(starts[i], starts[i + 1], 2), heads) for i in range(3))
    past = step.given(4)
    if past is not None:
        pasts = [past.slice(i, i + 1, 0).squeeze([0]) for i in range(2)]
        key, value = (_with_past(pasts[0], key), _with_past(pasts[1], value))
    biases = [] if step.given(5) is None else [step.input(5)]
    lengths = step.node.shape(3) is not None and step.shape(3) == (step.shape(0)[0],)
    padding = _length_bias(step, key) if lengths else _padding_bias(step, 3, key.elem_type)
    if isinstance(padding, Constant):
        return padding
    biases += [] if padding is None else [padding]
    if node.attribute("unidirectional", 0):
        earlier = None if past is None else pasts[0]
        biases.append(_hidden_unless(_window(query, key, earlier), key.elem_type))
    context = _attended(query, key, value, node.attribute("scale"), biases)
    stacked = step.writer.joined([key.unsqueeze([0]), value.unsqueeze([0])], axis=0)
    return [_heads_joined(context), stacked]


def _length_bias(step: Step, key: Term) -> Term:
    """A mask that lists how many tokens of each sequence count, [B]."""
    lengths = step.input(3).cast(TensorProto.INT64).unsqueeze([1, 2, 3])
    seen = _positions(key.dim(2)).test("Less", lengths)
    filtered = float(step.node.attribute("mask_filter_value", -10000.0))
    return seen.where(step.writer.number(0.0, key.elem_type), filtered)


@decomposition("com.microsoft.GroupQueryAttention")
def _group_query_parts(step: Step) -> list[Term | None] | Constant:
    """Rotated queries and keys, keys shared by neighbours; every sample's past is as long as the cache."""
    attribute = step.node.attribute
    heads, kv = int(attribute("num_heads", 0)), int(attribute("kv_num_heads", 0))
    if attribute("smooth_softmax", 0) or step.given(11) is not None:
        return Constant("has a softmax with a sink")
    if attribute("k_quant_type", "NONE") != "NONE":
        return Constant("has a quantized cache")
    if step.given(1) is None:
        whole = _heads_apart(step.input(0), heads + 2 * kv)
        bounds = (0, heads, heads + kv, heads + 2 * kv)
        query, key, value = (whole.slice(bounds[i], bounds[i + 1], 1) for i in range(3))
    else:
        query, key, value = (_heads_apart(step.input(i), heads if i == 0 else kv) for i in range(3))
    past = step.given(3)
    if attribute("do_rotary", 0):
        ids = step.given(9)
        if ids is None:
            ids = _positions(query.dim(2)) if past is None else _positions(query.dim(2)) + past.dim(2)
            ids = ids.unsqueeze([0])
        rotation = Rotation(step.input(7), step.input(8), ids, bool(attribute("rotary_interleaved", 0)))
        query, key = _rotated(query, rotation), _rotated(key, rotation)
    key, value = _with_past(past, key), _with_past(step.given(4), value)
    allowed = _positions(key.dim(2)).test(
        "LessOrEqual", step.input(5).cast(TensorProto.INT64).reshape([-1, 1, 1, 1])
    )
    if attribute("causal", 1):
        width = max(0, int(attribute("local_window_size", -1)))
        allowed = allowed.op("And", _window(query, key, past, width))
    biases = [_hidden_unless(allowed, query.elem_type), *([] if step.given(10) is None else [step.input(10)])]
    softcap, times = float(attribute("softcap", 0.0)), heads // kv
    shared, values = _repeated(key, times), _repeated(value, times)
    return [_heads_joined(_attended(query, shared, values, attribute("scale"), biases, softcap)), key, value]
