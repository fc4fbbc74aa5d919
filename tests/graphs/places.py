"""Rows by where heads lie: along which axis, in which order, picked, packed, repeated, in groups or in the batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.graphs.blueprint import PLAIN, STATIC
from tests.graphs.net import Net, each
from tests.graphs.parts import (
    HEADS,
    WIDTH,
    B,
    D,
    H,
    S,
    context_of,
    finished,
    heads_of,
    projected,
    softmax,
    source,
    split,
    turned,
    weighed,
)
from tests.graphs.table import Found, row

K, R = 2, 2
"""Key/value heads, and query heads of each."""
GROUPS = Found(H, K, size=D)
Make = Callable[..., Any]


# Repeated


def _gathered(net: Net, kept: Any) -> Any:
    """torch.export's indexing with a list: GatherND of numbers on the first axis."""
    owners = net.stored("owners", np.repeat(np.arange(K), R).reshape(-1, 1))
    first = net.op("Transpose", kept, perm=[1, 0, 2, 3])
    return net.op("Transpose", net.op("GatherND", first, owners), perm=[1, 0, 2, 3])


def _stacked(net: Net, kept: Any) -> Any:
    """TorchScript's stack: one Unsqueeze for every copy."""
    copies = [net.op("Unsqueeze", kept, net.ints(2)) for _ in range(R)]
    target = net.op("Concat", net.ints(0), net.ints(H), net.length(kept, 2), net.ints(D), axis=0)
    return net.op("Reshape", net.op("Concat", *copies, axis=2), target)


for repeat in (_gathered, _stacked):

    @row(f"shared heads are repeated, {repeat.__name__[1:]}", GROUPS)
    def _(net: Net, repeat: Make = repeat) -> Any:
        x = source(net)
        k, v = (repeat(net, heads_of(net, x, name, K)) for name in "kv")
        return finished(net, weighed(net, heads_of(net, x, "q"), turned(net, k), v))


for product in ("MatMul", "Einsum"):

    @row(f"groups of queries on an axis of their own, {product}", GROUPS)
    def _(net: Net, product: str = product) -> Any:
        """`[b, K, R, s, D]` against `[b, K, 1, t, D]`: which queries are left may differ between the groups."""
        x = source(net)
        q = net.op("Reshape", heads_of(net, x, "q"), net.ints(0, K, R, -1, D))
        k, v = (heads_of(net, x, name, K) for name in "kv")
        if product == "MatMul":
            k, v = (net.op("Unsqueeze", value, net.ints(2)) for value in (k, v))
            context = weighed(net, q, net.op("Transpose", k, perm=[0, 1, 2, 4, 3]), v)
        else:
            weights = softmax(net, net.op("Einsum", q, k, equation="bkrsd,bktd->bkrst"))
            context = net.op("Einsum", weights, v, equation="bkrst,bktd->bkrsd")
        target = net.op("Concat", net.ints(0), net.ints(H), net.length(x, 1), net.ints(D), axis=0)
        return finished(net, net.op("Reshape", context, target))


# Packed and picked


@row("views of a packed value that are picked from", HEADS)
def _(net: Net) -> Any:
    """A Transpose of its own for each of three picks: the numbers they pick move, nothing is gathered."""
    x = source(net)
    packed = net.op("MatMul", x, net.weight("qkv", WIDTH, H * 3 * D))
    packed = net.op("Reshape", packed, net.ints(0, 0, H, 3, D))
    q, k, v = (
        net.op("Gather", net.op("Transpose", packed, perm=[3, 0, 2, 1, 4]), net.number(number), axis=0)
        for number in range(3)
    )
    return finished(net, weighed(net, q, turned(net, k), v))


def _queries(net: Net, view: str, spelled: str) -> Any:
    """The first H of H + 2 rows."""
    if spelled == "slice":
        return net.rows(view, 0, -2, 2)
    numbers = np.arange(H) - (H + 2 if spelled == "negative" else 0)
    return net.op("Gather", view, net.stored("rows", numbers), axis=2)


def _one_row(net: Net, view: str, at: int, spelled: str) -> Any:
    """One of the last rows, [B, S, 1, D]."""
    if spelled == "list":
        return net.op("Gather", view, net.ints(at), axis=2)
    if spelled == "turned":
        first = net.op("Transpose", view, perm=[2, 0, 1, 3])
        picked = net.op("GatherND", first, net.stored("row", np.array([[at]])))
        return net.op("Transpose", picked, perm=[1, 2, 0, 3])
    number = net.number(at if spelled == "negative" else at + H + 2)
    return net.op("Unsqueeze", net.op("Gather", view, number, axis=2), net.ints(2))


for q_spelled, kv_spelled in zip(
    itertools.cycle(("slice", "positive", "negative")),
    ("positive", "negative", "list", "turned"),
    strict=False,
):

    @row(f"one packed view, {q_spelled} and {kv_spelled}", Found(H, 1, size=D))
    def _(net: Net, q_spelled: str = q_spelled, kv_spelled: str = kv_spelled) -> Any:
        """Queries, keys and values are picked from one view: its weight is cut."""
        x = source(net)
        packed = net.op("MatMul", x, net.weight("qkv", WIDTH, (H + 2) * D))
        view = net.op("Reshape", packed, net.ints(0, 0, H + 2, D))
        q = net.op("Transpose", _queries(net, view, q_spelled), perm=[0, 2, 1, 3])
        k = net.op("Transpose", _one_row(net, view, -2, kv_spelled), perm=[0, 2, 3, 1])
        v = net.op("Transpose", _one_row(net, view, -1, kv_spelled), perm=[0, 2, 1, 3])
        return finished(net, weighed(net, q, k, v))


def _counting(net: Net, shape: Any, axis: int, first: int, width: int) -> Any:
    """Positions along one of four axes, expanded to the shape of what is written."""
    size = net.op("Squeeze", net.piece(shape, axis), net.ints(0))
    count = net.op("Range", net.number(0), size, net.number(1))
    if axis == 3:
        count = net.rows(count, first, first + width, 0)
    count = net.op("Reshape", count, net.ints(-1, *(1 for _ in range(3 - axis))))
    target = net.op("Concat", *(net.piece(shape, other) for other in range(3)), net.ints(width), axis=0)
    return net.op("Unsqueeze", net.op("Expand", count, target), net.ints(-1))


@row("a slice that is assigned", HEADS)
def _(net: Net) -> Any:
    """`k[..., :n] = a`, as TorchScript writes it: every element is addressed, by counting along whole axes."""
    x, half = source(net), D // 2
    q, k, v = (heads_of(net, x, name) for name in "qkv")
    zeros = net.op("ConstantOfShape", net.op("Shape", k))
    for first, part in enumerate(net.op("Split", k, net.ints(half, half), outputs=2, axis=3)):
        indices = [_counting(net, net.op("Shape", zeros), axis, first * half, half) for axis in range(4)]
        zeros = net.op("ScatterND", zeros, net.op("Concat", *indices, axis=-1), part)
    return finished(net, weighed(net, q, turned(net, zeros), v))


FIXED = replace(PLAIN, symbolic=False)


@row("a shape that is seen through a slice", HEADS, plans=FIXED)
def _(net: Net) -> Any:
    """The Slice asks for no contents; what its Shape reports stays the original's number."""
    x = source(net)
    q, k, v = (heads_of(net, x, name) for name in "qkv")
    seen = net.op("Shape", net.rows(q, 0, 1, 3))
    count = net.op("Cast", net.op("Gather", seen, net.ints(1)), to=1)
    return finished(net, weighed(net, net.op("Mul", q, count), turned(net, k), v))


@row("elements that are counted", HEADS)
def _(net: Net) -> Any:
    """`Size` of the keys: the number that scores are scaled with stays that of the original."""
    x = source(net)
    k = heads_of(net, x, "k")
    number = net.op("Cast", net.op("Size", k), to=1)
    scores = net.op("Div", net.op("MatMul", heads_of(net, x, "q"), turned(net, k)), number)
    return finished(net, net.op("MatMul", softmax(net, scores), heads_of(net, x, "v")))


@row("a number of heads that a weight tells", HEADS, plans=STATIC)
def _(net: Net) -> Any:
    """The Shape of a weight that is cut keeps giving the original's number to those who compute with it."""
    x = source(net)
    weight = net.weight("q", WIDTH, H * D)
    q = net.op(
        "Transpose", net.op("Reshape", net.op("MatMul", x, weight), net.ints(0, 0, H, D)), perm=[0, 2, 1, 3]
    )
    width = net.op("Cast", net.op("Gather", net.op("Shape", weight), net.ints(1)), to=1)
    scores = net.op("Div", net.op("MatMul", q, split(net, x, "k", 0, 2, 3, 1)), width)
    return finished(net, net.op("MatMul", softmax(net, scores), heads_of(net, x, "v")))


@row("a table of positions that is resized", HEADS, plans=FIXED)
def _(net: Net) -> Any:
    """BEiT resizes its biases to the image, one channel for each head: channels are not interpolated."""
    x = source(net)
    side = net.op("Cast", net.length(x, 1), to=1)
    side = net.op("Cast", net.op("Mul", side, net.op("Constant", value_float=1.0)), to=7)
    sizes = net.op("Concat", net.ints(1, H), side, side, axis=0)
    biases = net.op("Resize", net.weight("table", 1, H, 2, 2), "", "", sizes, mode="linear")
    return finished(net, context_of(net, x, weigh=lambda net, s: softmax(net, net.op("Add", s, biases))))


@row("a relative shift of known length", HEADS, plans=FIXED)
def _(net: Net) -> Any:
    """Parakeet pads, folds anew and cuts: the positions that go are no block before, but the heads are."""
    x, distances = source(net), 2 * S - 1
    q, k, v = (heads_of(net, x, name) for name in "qkv")
    far = net.op(
        "Pad", net.op("MatMul", q, net.weight("far", H, D, distances)), net.ints(0, 0, 0, 1, 0, 0, 0, 0)
    )
    far = net.rows(net.op("Reshape", far, net.ints(0, 0, distances + 1, S)), 1, distances + 1, 2)
    near = net.rows(net.op("Reshape", far, net.ints(0, 0, S, distances)), 0, S, 3)
    scores = net.op("Add", net.op("MatMul", q, turned(net, k)), near)
    return finished(net, net.op("MatMul", softmax(net, scores), v))


# Groups whose queries stand in a row


def _in_a_row(net: Net) -> Any:
    """[B, K, G*S, D]: neighbours along the queries belong to one head."""
    x = source(net)
    q = net.op("Reshape", heads_of(net, x, "q"), net.ints(0, K, -1, D))
    context = weighed(net, q, split(net, x, "k", 0, 2, 3, 1, heads=K), heads_of(net, x, "v", K))
    return finished(net, net.op("Reshape", context, net.ints(0, H, -1, D)))


row(
    "queries of a group stand in a row",
    GROUPS,
    plans={"static": STATIC, "dynamic": replace(STATIC, symbolic=True)},
)(_in_a_row)


@row("queries of a group in a row with one token", Found(H, K), plans=STATIC)
def _(net: Net) -> Any:
    """[B, K, G, D] when one token is decoded at a time: the rows have weights of their own, so they are heads."""
    x, y = net.input("x", (1, 1, WIDTH), "---"), net.input("y", (1, S, WIDTH), "---")
    q = net.op("Reshape", net.op("MatMul", x, net.weight("q", WIDTH, H * D)), net.ints(1, K, R, D))
    context = weighed(net, q, split(net, y, "k", 0, 2, 3, 1, heads=K), heads_of(net, y, "v", K))
    context = net.op("Reshape", context, net.ints(1, H, D))
    net.mark(context, -2, H)
    return projected(net, net.op("Reshape", context, net.ints(0, 1, H * D)))


# One by one, stacked, summed


for style in ("modules", "slices"):

    @row(f"heads computed one by one, {style}", HEADS, plans=STATIC)
    def _(net: Net, style: str = style) -> Any:
        x = source(net, "b--")
        wide = {name: net.op("MatMul", x, net.weight(name, WIDTH, H * D)) for name in "qkv"}

        def part(name: str, head: int) -> Any:
            if style == "modules":
                return net.op("MatMul", x, net.weight(name, WIDTH, D))
            return net.rows(wide[name], head * D, head * D + D, 2, 1)

        contexts = []
        for head in range(H):
            q, k, v = (part(name, head) for name in "qkv")
            contexts.append(weighed(net, q, net.op("Transpose", k, perm=[0, 2, 1]), v))
        return projected(net, net.mark(net.op("Concat", *contexts, axis=2), -1, each(H, D)))


@row("maps of single heads are stacked", HEADS)
def _(net: Net) -> Any:
    """One linear layer a head, stacked (`torch.stack`), one product for all heads; contexts are selected one by one."""
    x, axis = source(net), net.ints(1)

    def heads(name: str) -> Any:
        made = [net.op("MatMul", x, net.weight(name, WIDTH, D)) for _ in range(H)]
        return net.op("Concat", *(net.op("Unsqueeze", item, axis) for item in made), axis=1)

    context = net.mark(weighed(net, heads("q"), turned(net, heads("k")), heads("v")), -3, H)
    picked = [net.op("Squeeze", net.rows(context, head, head + 1), axis) for head in range(H)]
    return projected(net, net.op("Concat", *picked, axis=2))


for spelled in ("MatMul", "Einsum"):

    @row(f"output layers per head are added up, {spelled}", HEADS)
    def _(net: Net, spelled: str = spelled) -> Any:
        """`(context @ W_o).sum(1)`: each head has an output layer of its own, and the next node sums over heads."""
        context = net.mark(context_of(net, source(net)), -3, H)
        equation = {"equation": "bhsd,hdw->bhsw"} if spelled == "Einsum" else {}
        made = net.op(spelled, context, net.weight("o", H, D, WIDTH), **equation)
        return net.op("ReduceSum", made, net.ints(1), keepdims=0)


for keepdims in (0, 1):

    @row(f"heads from sequences, keepdims {keepdims}", HEADS)
    def _(net: Net, keepdims: int = keepdims) -> Any:
        """A SplitToSequence outputs heads one by one, with their axis and without it."""
        x, parts = source(net), {}
        for name in "qkv":
            parts[name] = net.op("SplitToSequence", heads_of(net, x, name), axis=1, keepdims=keepdims)
        contexts = []
        for head in range(H):
            q, k, v = (net.op("SequenceAt", parts[name], net.number(head)) for name in "qkv")
            k = turned(net, k) if keepdims else net.op("Transpose", k, perm=[0, 2, 1])
            context = weighed(net, q, k, v)
            contexts.append(net.op("Squeeze", context, net.ints(1)) if keepdims else context)
        return projected(net, net.mark(net.op("Concat", *contexts, axis=-1), -1, each(H, D)))


@row(
    "heads of two kinds side by side",
    Found(2 * H),
    cuts=[{"0": [0]}, {"0": [H]}, {"0": [1, H, H + 1]}, {"0": range(H)}, {"0": range(2 * H)}],
)
def _(net: Net) -> Any:
    """ConvBERT: some heads attend, others convolve with a kernel of their own, and one projection sums over all."""
    x = source(net, "b--")
    attended = net.op("Transpose", context_of(net, x), perm=[0, 2, 1, 3])
    taps = net.op("Reshape", net.op("MatMul", x, net.weight("taps", WIDTH, H * 2)), net.ints(-1, 2, 1))
    rows = net.op("MatMul", x, net.weight("c", WIDTH, H * D))
    pair = [net.op("Gather", rows, net.ints(*order), axis=1) for order in (range(S), reversed(range(S)))]
    pair = [net.op("Reshape", picked, net.ints(-1, D, 1)) for picked in pair]
    convolved = net.op("MatMul", net.op("Concat", *pair, axis=-1), net.op("Softmax", taps, axis=1))
    convolved = net.op("Reshape", convolved, net.op("Shape", attended))
    both = net.mark(net.op("Concat", attended, convolved, axis=2), -2, 2 * H)
    flat = net.op("Reshape", both, net.ints(0, 0, 2 * H * D))
    return net.op("Add", x, projected(net, flat, 2 * H * D))


# Sizes that are computed


def _block(net: Net, x: Any, length: Any = None, after: Callable[[Any], Any] = lambda flat: flat) -> Any:
    """Plain attention; `length` is the sequence in the target of the merging Reshape."""

    def heads(name: str, *order: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(B, -1, H, D)), perm=list(order))

    context = weighed(net, heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1), heads("v", 0, 2, 1, 3))
    apart = net.op("Transpose", context, perm=[0, 2, 1, 3])
    tail = net.ints(S) if length is None else length
    flat = net.op("Reshape", apart, net.op("Concat", net.ints(B), tail, net.ints(H * D), axis=0))
    # A head adds nothing to the projection: a norm on its way there would make its bias of zeros.
    return projected(net, net.mark(after(flat), -1, each(H, D)))


@row("a group norm with one group per head", HEADS, plans=STATIC)
def _(net: Net) -> Any:
    """Its groups are the heads, so whole groups go: the rule counts them again."""

    def normed(flat: Any) -> Any:
        rows = net.op("Reshape", flat, net.ints(B * S, H * D))
        vectors = net.weight("scale", H * D), net.weight("bias", H * D)
        return net.op(
            "Reshape",
            net.op("GroupNormalization", rows, *vectors, num_groups=H, epsilon=1e-5),
            net.ints(B, S, H * D),
        )

    return _block(net, source(net, "b--"), after=normed)


@row("a size that is rounded up", HEADS, plans=STATIC)
def _(net: Net) -> Any:
    """`ceil(size / 2) * 2` in floats, as exporters compute the patches of an image of known size."""
    x = source(net, "b--")
    two = net.op("Constant", value_float=2.0)
    half = net.op("Ceil", net.op("Div", net.op("Cast", net.length(x, 1), to=1), two))
    even = net.op("Cast", net.op("Mul", half, two), to=7)
    return _block(net, net.op("Pad", x, net.ints(0, 0, 0, 0, 1, 0)), length=even)


@row("a range between floats", HEADS, plans=STATIC)
def _(net: Net) -> Any:
    """Rotary positions of patches run from 0.5 in steps of 1."""
    x = source(net, "b--")
    start, step = (net.op("Constant", value_float=number) for number in (0.5, 1.0))
    stop = net.op("Cast", net.op("Squeeze", net.length(x, 1)), to=1)
    return _block(net, x, length=net.op("Shape", net.op("Range", start, stop, step)))


# Values on their way


def _values_through(net: Net, through: Callable[[Net, Any], Any]) -> Any:
    """A block whose values `[B, H, S, D]` pass an operator before the core."""
    x = source(net)
    values = through(net, heads_of(net, x, "v"))
    return finished(net, weighed(net, heads_of(net, x, "q"), split(net, x, "k", 0, 2, 3, 1), values))


def _by_heads_in_the_batch(net: Net, values: Any) -> Any:
    """MViT: a depthwise convolution over the positions, of each head by itself."""
    folded = net.op("Reshape", turned(net, values), net.ints(-1, D, S))
    pooled = net.op("Conv", folded, net.weight("pool", D, 1, 3), group=D, kernel_shape=[3], pads=[1, 1])
    return turned(net, net.op("Reshape", pooled, net.ints(-1, H, D, S)))


def _by_picked_positions(net: Net, values: Any) -> Any:
    """BigBird: each head picks positions of its own."""
    own = np.random.default_rng(0).integers(0, S, (B, H, S, D))
    return net.op("GatherElements", values, net.stored("picks", own), axis=2)


def _by_cropped_positions(net: Net, values: Any) -> Any:
    """Some positions are read by no head, and tokens are nobody's."""
    return net.op("Pad", net.rows(values, 1, S, 2), net.ints(0, 0, 1, 0, 0, 0, 0, 0))


for through in (_by_heads_in_the_batch, _by_picked_positions, _by_cropped_positions):
    row(f"values stay each head's own, {through.__name__[1:]}", HEADS, plans=STATIC)(
        lambda net, through=through: _values_through(net, through)
    )


# Groups and the order of channels behind them


def _softmax5(net: Net, q: str, k: str, v: str) -> Any:
    keys = net.op("Transpose", net.op("Unsqueeze", k, net.ints(2)), perm=[0, 1, 2, 4, 3])
    return weighed(net, q, keys, net.op("Unsqueeze", v, net.ints(2)))


def _einsum5(net: Net, q: str, k: str, v: str) -> Any:
    maps = softmax(net, net.op("Einsum", q, k, equation="bkgsd,bktd->bkgst"))
    return net.op("Einsum", maps, v, equation="bkgst,bktd->bkgsd")


def _linear5(net: Net, q: str, k: str, v: str) -> Any:
    state = net.op("Einsum", net.op("Relu", k), v, equation="bktd,bkte->bkde")
    return net.op("MatMul", net.op("Relu", q), net.op("Unsqueeze", state, net.ints(2)))


def _in_order(order: str) -> Make:
    """One projection of channels in some order of key/value heads, positions in a group, and channels of a head."""

    def project(net: Net, context: str, kv: int, group: int) -> Any:
        back = net.op("Transpose", context, perm=[0, 3, *("kgsd".index(axis) + 1 for axis in order)])
        return projected(net, net.op("Reshape", back, net.ints(0, -1, kv * group * D)), kv * group * D)

    return project


def _one_by_one(net: Net, context: str, kv: int, group: int) -> Any:
    parts = [
        projected(net, net.op("Gather", of_one, net.number(g), axis=1), D)
        for k in range(kv)
        for of_one in [net.op("Gather", context, net.number(k), axis=1)]
        for g in range(group)
    ]
    return net.op("Sum", *parts)


def _by_position(net: Net, context: str, kv: int, group: int) -> Any:
    """A projection for each position in all groups."""
    parts = []
    for g in range(group):
        back = net.op("Transpose", net.op("Gather", context, net.number(g), axis=2), perm=[0, 2, 1, 3])
        parts.append(projected(net, net.op("Reshape", back, net.ints(0, -1, kv * D)), kv * D))
    return net.op("Sum", *parts)


ATTEND = {"softmax": _softmax5, "einsum": _einsum5, "linear": _linear5}
PROJECT = {
    **{"".join(order): _in_order("".join(order)) for order in itertools.permutations("kgd")},
    "one by one": _one_by_one,
    "by position": _by_position,
}


def _grouped(net: Net, attend: Make, project: Make, order: str, kv: int, group: int) -> Any:
    x = source(net)
    q = net.op("Reshape", heads_of(net, x, "q", kv * group), net.ints(0, kv, group, -1, D))
    context = attend(net, q, heads_of(net, x, "k", kv), heads_of(net, x, "v", kv))
    # Heads are numbered by the first channels that the projection reads.
    outer = len(order) == 3 and order.index("g") < order.index("k")
    owners = [[g * kv + k if outer else k * group + g] for k in range(kv) for g in range(group)]
    net.mark(context, -4, owners, sizes=(kv, group))
    return net.op("Add", project(net, context, kv, group), x)


def _positions(order: str, kv: int, group: int) -> list[int]:
    """The second query head of each group."""
    outer = len(order) == 3 and order.index("g") < order.index("k")
    return [kv + k if outer else k * group + 1 for k in range(kv)]


for number, (order, project) in enumerate(PROJECT.items()):
    for size, (kv, group) in enumerate(((1, 4), (2, 3))):
        attend = list(ATTEND)[(number + size) % 3]

        def write(net: Net, of: tuple[Any, ...] = (ATTEND[attend], project, order, kv, group)) -> Any:
            return _grouped(net, *of)

        row(
            f"{attend} of {kv} groups of {group}, projected {order}",
            Found(kv * group, kv, v_size=D, size=D),
            plans=(PLAIN, STATIC)[(number // 2 + size) % 2],
            cuts=[{"0": _positions(order, kv, group)}, {"0": range(kv * group)}],
        )(write)


def _mixed(net: Net, how: str, heads: int, sets: int) -> Any:
    """A layer behind the contexts mixes sets of heads, each of which is one head."""
    context = context_of(net, source(net), heads=heads)
    net.mark(context, -3, [[own // (heads // sets)] for own in range(heads)])
    if how == "convolution":
        rows = net.op("Reshape", turned(net, context), net.ints(0, heads * D, -1))
        weight = net.weight("mixing", heads * D, heads * D // sets, 1)
        mixed = net.op("Transpose", net.op("Conv", rows, weight, group=sets), perm=[0, 2, 1])
    else:
        back = net.op("Transpose", context, perm=[0, 2, 1, 3])
        rows = net.op("Reshape", back, net.ints(0, -1, sets, 1, heads * D // sets))
        mixed = net.op("MatMul", rows, net.weight("mixing", sets, heads * D // sets, heads * D // sets))
        mixed = net.op("Reshape", mixed, net.ints(0, -1, heads * D))
    return projected(net, mixed, heads * D)


for how, (heads, sets) in itertools.product(("convolution", "blocks"), ((4, 2), (6, 3), (4, 4))):
    row(f"{sets} sets of {heads} heads are mixed by {how}", Found(sets, size=D, v_size=D * heads // sets))(
        lambda net, of=(how, heads, sets): _mixed(net, *of)
    )


# Heads in front of the batch, all samples of one head in a row: all ways in times all ways out

WAYS_IN = {
    "concat": "{n}1, {n}2, {n}3, {n}4 = Split <axis = 2, num_outputs = 4> ({n}l)"
    " {n}h = Concat <axis = 0> ({n}1, {n}2, {n}3, {n}4)",
    "reshape": "{n}1 = Reshape ({n}l, split) {n}2 = Transpose <perm = [2, 0, 1, 3]> ({n}1)"
    " {n}h = Reshape ({n}2, rows)",
}
SAME = "qq = Identity (qh)", "s = Identity (raw)"
BETWEEN = {
    "nothing": SAME,
    "norm": ("qq = LayerNormalization (qh, scale)", SAME[1]),
    "halves": (
        "a = Slice (qh, zero, two, last) b = Slice (qh, two, four, last) qq = Concat <axis = -1> (b, a)",
        SAME[1],
    ),
    "mask of tokens": (SAME[0], "s = Add (raw, m)"),
    "mask per sample": (SAME[0], "wide = Expand (m, spread) of = Reshape (wide, mrows) s = Add (raw, of)"),
}
PIECES = "p1, p2, p3, p4"
WAYS_OUT = {
    "reshape": "c4 = Reshape (c, apart) ct = Transpose <perm = [1, 2, 0, 3]> (c4) y = Reshape (ct, flat)",
    "split": f"sizes = Concat <axis = 0> (batch, batch, batch, batch) {PIECES} = Split <axis = 0> (c, sizes)"
    f" y = Concat <axis = 2> ({PIECES})",
    "equal split": f"{PIECES} = Split <axis = 0, num_outputs = 4> (c) y = Concat <axis = 2> ({PIECES})",
    "slices": "b2 = Mul (batch, two) b3 = Mul (batch, three) p1 = Slice (c, zero, batch, zero)"
    " p2 = Slice (c, batch, b2, zero) p3 = Slice (c, b2, b3, zero) p4 = Slice (c, b3, end, zero)"
    f" y = Concat <axis = 2> ({PIECES})",
    "slices by int32": "nb = Cast <to = 6> (batch) n0 = Cast <to = 6> (zero) n2 = Cast <to = 6> (two)"
    " n3 = Cast <to = 6> (three) ne = Constant <value_ints = [2147483647]> () ni = Cast <to = 6> (ne)"
    " b2 = Mul (nb, n2) b3 = Mul (nb, n3) p1 = Slice (c, n0, nb, n0) p2 = Slice (c, nb, b2, n0)"
    f" p3 = Slice (c, b2, b3, n0) p4 = Slice (c, b3, ni, n0) y = Concat <axis = 2> ({PIECES})",
}


def _heads_first(net: Net, into: str, between: tuple[str, str], out: str) -> Any:
    net.input("x", (B, 5, 6), "bs-")
    net.tensors(wq=(6, 16), wk=(6, 16), wv=(6, 16), wo=(16, 5), scale=(4,), m=(1, 1))
    net.lists(split=[0, 0, 4, 4], flat=[0, 0, -1], zero=[0], one=[1], two=[2], three=[3], four=[4], last=[-1])
    net.lists(end=[2**63 - 1])
    for number in range(4):
        net.constant(f"i{number}", np.int64(number))
    ways = " ".join(into.format(n=name) for name in "qkv")
    net.text(
        f"""batch = Shape <start = 0, end = 1> (x) t = Shape <start = 1, end = 2> (x) bh = Mul (batch, four)
        rows = Concat <axis = 0> (bh, t, four) apart = Concat <axis = 0> (four, batch, t, four)
        spread = Concat <axis = 0> (four, batch, one, t) mrows = Concat <axis = 0> (bh, one, t)
        ql = MatMul (x, wq) kl = MatMul (x, wk) vl = MatMul (x, wv) {ways} {between[0]}
        kt = Transpose <perm = [0, 2, 1]> (kh) raw = MatMul (qq, kt) {between[1]}
        w = Softmax <axis = -1> (s) c = MatMul (w, vh) {out} out = MatMul (y, wo)"""
    )
    net.mark("y", -1, each(4, 4))
    return "out"


for number, (into, out) in enumerate(itertools.product(WAYS_IN, WAYS_OUT)):
    between = list(BETWEEN)[number % len(BETWEEN)]
    row(
        f"heads before the batch, {into}, {between}, {out}", Found(4, size=4), plans=replace(PLAIN, opset=18)
    )(lambda net, of=(WAYS_IN[into], BETWEEN[between], WAYS_OUT[out]): _heads_first(net, *of))

SEQUENCE = f"""bs = Squeeze (batch) seq = SplitToSequence <axis = 0> (c, bs)
    p1 = SequenceAt (seq, i0) p2 = SequenceAt (seq, i1) p3 = SequenceAt (seq, i2) p4 = SequenceAt (seq, i3)
    y = Concat <axis = 2> ({PIECES})"""
row(
    "heads from a sequence of chunks as long as the batch",
    missed=[("no-rule", "c")],
    plans=replace(PLAIN, opset=18),
)(lambda net: _heads_first(net, next(iter(WAYS_IN.values())), next(iter(BETWEEN.values())), SEQUENCE))


@row(
    "streams that share queries",
    Found(4, size=4),
    Found(4, size=4),
    plans=replace(PLAIN, opset=18),
    cuts=[{"0": [1]}, {"0": [0], "1": [2, 3]}, {"0": [0, 1, 2]}, {"0": [1], "1": [1]}],
    gathers=[1, 2, 1, 0],
)
def _(net: Net) -> Any:
    """Two streams of tokens, one after the other, share a layer of queries, as in ProphetNet's decoder."""
    x = net.input("x", (B, 5, 6), "bs-")
    length = net.op("Shape", x, start=1, end=2)
    other = net.op("Neg", x)
    q = net.op("MatMul", net.op("Concat", x, other, axis=1), net.weight("q", 6, 16))
    q = net.op("Reshape", q, net.ints(0, 0, 4, 4))
    made = []
    for number, (tokens, bounds) in enumerate(((x, (0, length)), (other, (length, 2**63 - 1)))):
        queries = net.op("Transpose", net.rows(q, *bounds), perm=[0, 2, 1, 3])
        k = split(net, tokens, "k", 0, 2, 3, 1, size=4, width=6)
        v = split(net, tokens, "v", 0, 2, 1, 3, size=4, width=6)
        context = net.mark(weighed(net, queries, k, v), -3, 4, str(number))
        flat = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, -1))
        made.append(net.op("MatMul", flat, net.weight("o", 16, 5)))
    return net.op("Add", *made)


# Two projections, and many for single heads


N = 3
"""Heads that are projected one by one."""


def _normed(net: Net, value: str) -> Any:
    return net.op("LayerNormalization", value, net.weight("gain", WIDTH), axis=-1)


def _folded(op_type: str) -> Make:
    def join(net: Net, parts: list[str]) -> Any:
        total = parts[0]
        for part in parts[1:]:
            total = net.op(op_type, total, part)
        return total

    return join


def _normed_stream(net: Net, parts: list[str]) -> Any:
    stream = "x"
    for part in parts:
        stream = _normed(net, net.op("Add", stream, part))
    return stream


def _joined(net: Net, parts: list[str]) -> Any:
    return projected(net, net.op("Concat", *parts, axis=-1), N * WIDTH, "mix")


def _most(net: Net, parts: list[str]) -> Any:
    rows = [net.op("Unsqueeze", part, net.ints(0)) for part in parts]
    return net.op("ReduceMax", net.op("Concat", *rows, axis=0), axes=[0], keepdims=0)


JOINS: dict[str, Make] = {
    "add": _folded("Add"),
    "sub": _folded("Sub"),
    "sum": lambda net, parts: net.op("Sum", *parts),
    "mean": lambda net, parts: net.op("Mean", *parts),
    "max": lambda net, parts: net.op("Max", *parts),
    "each normalised": lambda net, parts: net.op("Sum", *(_normed(net, part) for part in parts)),
    "sum normalised": lambda net, parts: _normed(net, _folded("Add")(net, parts)),
    "one after the other": _normed_stream,
    "concatenated": _joined,
    "stacked": _most,
}


def _apart(net: Net, join: Make, sliced: bool, bias: bool) -> Any:
    context = net.mark(context_of(net, source(net), heads=N), -3, N)
    parts = []
    for head in range(N):
        if sliced:
            piece = net.op("Squeeze", net.rows(context, head, head + 1), net.ints(1))
        else:
            piece = net.op("Gather", context, net.number(head if head else -N), axis=1)
        made = projected(net, piece, D)
        parts.append(net.op("Add", made, net.weight("bias", WIDTH)) if bias else made)
    return net.op("Add", join(net, parts), "x")


for number, (how, join) in enumerate(JOINS.items()):
    sliced, bias = number % 2 == 0, number // 2 % 2 == 0
    row(f"heads projected apart, {how}", Found(N, size=D))(
        lambda net, of=(join, sliced, bias): _apart(net, *of)
    )
row("heads projected apart, multiplied", Found(N, size=D))(
    lambda net: _apart(net, _folded("Mul"), True, True)
)
