"""How exporters compute shapes around attention: heads have to be found behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.model.graph import dims
from onnxheadprune.model.graph.dims import symbol
from onnxheadprune.operators import view_of
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN, Blueprint
from tests.attention.cuts import check_cut
from tests.attention.net_parts import WIDTH, B, D, H, S, split

STATIC, SYMBOLIC = (replace(PLAIN, symbolic=symbolic) for symbolic in (False, True))


def test_a_batch_of_heads_is_the_larger_of_two_batches() -> None:
    """tf2onnx writes an einsum as `[b * H, s, d]` products and takes the result's shape from both operands."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "b--")

    def heads(name: str, *order: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(-1, S, H, D)), perm=list(order))

    def folded(data: Any) -> tuple[Any, Any]:
        shape = net.op("Shape", data)
        batch = net.op("Gather", shape, net.ints(0, 1))
        tail = net.op("Gather", shape, net.ints(3))
        return net.op(
            "Reshape", data, net.op("Concat", net.op("ReduceProd", batch), net.ints(-1), tail, axis=0)
        ), batch

    (q, one), (k, other) = folded(heads("q", 0, 2, 1, 3)), folded(heads("k", 0, 2, 3, 1))
    back = net.op("Concat", net.op("Max", one, other), net.ints(S, S), axis=0)
    weights = net.op("Softmax", net.op("Reshape", net.op("MatMul", q, k), back), axis=-1)
    context = net.op("Transpose", net.op("MatMul", weights, heads("v", 0, 2, 1, 3)), perm=[0, 2, 1, 3])
    merged = net.op("Reshape", context, net.ints(-1, S, H * D))
    flat = net.op(
        "Gemm", net.op("Reshape", merged, net.ints(-1, H * D)), net.weight("o", H * D, WIDTH), beta=0.0
    )
    _exact(net, flat)


def _exact(net: Net, output: Any) -> None:
    """All heads are found, and pruned equals masked."""
    model = net.export([output])
    assert [site.num_heads for site in inspect(model)] == [H]
    for gone in ([1], [0, 2], list(range(H))):
        check_cut(model, net.feed, gone)


def _attention(plan: Blueprint, weigh: Callable[[Net, Any], Any], dots: bool = False) -> tuple[Net, Any]:
    """An attention block with batch and sequence as the plan has them; `weigh` makes weights of scores."""
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")
    keys = net.input("keys", (B, S, WIDTH), "ps-") if dots else x

    def heads(name: str) -> Any:
        flat = net.op("MatMul", x if name == "q" else keys, net.weight(name, WIDTH, H * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=[0, 2, 1, 3])

    q, k, v = (heads(name) for name in "qkv")
    if dots:
        weights = weigh(net, net.op("Einsum", q, k, equation="...id,...jd->...ij"))
        context = net.op("Einsum", weights, v, equation="...ij, ...jd -> ...id")
    else:
        weights = weigh(net, net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])))
        context = net.op("MatMul", weights, v)
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    return net, net.op("MatMul", merged, net.weight("o", H * D, WIDTH))


def _softmax(net: Net, scores: Any) -> Any:
    return net.op("Softmax", scores, axis=-1)


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_an_einsum_with_an_ellipsis_has_a_shape(plan: Blueprint) -> None:
    """onnx invents a symbol where two operands name one axis differently."""
    net, output = _attention(plan, _softmax, dots=True)
    _exact(net, output)
    view = view_of(net.export([output]))
    for node in view.nodes:
        if node.op_type == "Einsum":
            batch, heads, length, _ = node.shape(0) or (0,) * 4
            assert node.out.shape is not None
            assert node.out.shape[:3] == (batch, heads, length)


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_a_sink_that_is_cut_off_again_is_no_coupling(plan: Blueprint) -> None:
    """The Slice asks for a part of the keys, of which Softmax needs all; heads have no share in that."""

    def weigh(net: Net, scores: Any) -> Any:
        padded = net.op("Pad", scores, net.ints(0, 0, 0, 0, 0, 0, 0, 1))
        return net.op("Slice", _softmax(net, padded), net.ints(0), net.ints(-1), net.ints(3))

    _exact(*_attention(plan, weigh))


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_only_scores_as_large_as_the_second_largest_stay(plan: Blueprint) -> None:
    def weigh(net: Net, scores: Any) -> Any:
        largest, _ = net.op("TopK", scores, net.ints(2), outputs=2, axis=-1)
        least = net.op("Slice", largest, net.ints(-1), net.ints(2**31 - 1), net.ints(-1))
        low = net.op("Less", scores, least)
        return _softmax(net, net.op("Where", low, net.op("Sub", scores, net.weight("low", 1)), scores))

    _exact(*_attention(plan, weigh))


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_padding_that_is_turned_around_at_run_time(plan: Blueprint) -> None:
    """torch pads the last axis first: TorchScript makes pairs, reverses and transposes them (VITS, LongT5)."""

    def weigh(net: Net, scores: Any) -> Any:
        length = net.piece(net.op("Shape", scores), 2)
        pairs = net.op("Concat", net.ints(0), length, *(net.ints(0) for _ in range(6)), axis=0)
        pairs = net.op("Reshape", pairs, net.ints(-1, 2))
        turned = net.op("Slice", pairs, net.ints(-1), net.ints(-(2**63) + 1), net.ints(0), net.ints(-1))
        pads = net.op("Reshape", net.op("Transpose", turned, perm=[1, 0]), net.ints(-1))
        padded = net.op("Pad", scores, net.op("Cast", pads, to=7))
        return net.op("Slice", _softmax(net, padded), net.ints(0), length, net.ints(3))

    _exact(*_attention(plan, weigh))


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
@pytest.mark.parametrize("spelled", ["Mod", "Ceil"])
def test_padding_up_to_whole_blocks(plan: Blueprint, spelled: str) -> None:
    """LongT5 pads by `-length % block`; what cannot be followed (here a way through floats) hides only its own axis."""

    def weigh(net: Net, scores: Any) -> Any:
        length = net.piece(net.op("Shape", scores), 2)
        if spelled == "Mod":
            missing = net.op("Mod", net.op("Neg", length), net.ints(4))
        else:
            missing = net.op("Cast", net.op("Ceil", net.op("Cast", length, to=1)), to=7)
        padded = net.op("Pad", scores, net.op("Concat", net.ints(0, 0, 0, 0, 0, 0, 0), missing, axis=0))
        return net.op("Slice", _softmax(net, padded), net.ints(0), length, net.ints(3))

    _exact(*_attention(plan, weigh))


def test_heads_in_the_batch_keep_their_shape_through_any_function() -> None:
    """YOSO weighs values by arc cosines: what onnx alone knows the shape of is `4*batch` by name, not by number."""
    net = Net(SYMBOLIC)
    x = net.input("x", (B, S, WIDTH), "bs-")
    batch = net.piece(net.op("Shape", x), 0)
    folded = net.op("Concat", net.op("Mul", batch, net.ints(H)), net.ints(-1, D), axis=0)

    def heads(name: str) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        apart = net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=[0, 2, 1, 3])
        return net.op("LpNormalization", net.op("Reshape", apart, folded), axis=-1)

    scores = net.op("MatMul", heads("q"), net.op("Transpose", heads("k"), perm=[0, 2, 1]))
    context = net.op("MatMul", net.op("Acos", net.op("Mul", scores, net.weight("near", 1))), heads("v"))
    apart = net.op("Reshape", context, net.op("Concat", batch, net.ints(H, -1, D), axis=0))
    merged = net.op("Reshape", net.op("Transpose", apart, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    _exact(net, net.op("MatMul", merged, net.weight("o", H * D, WIDTH)))


def test_a_difference_of_dimensions_may_be_negative() -> None:
    """`max(length - 4, 0)` and `where(length - 4 == -1, 4, 0)` are decided by the length, not by the graph."""
    net = Net(SYMBOLIC)
    x = net.input("x", (B, S), "bs")
    less = net.op("Sub", net.piece(net.op("Shape", x), 1), net.ints(4))
    larger = net.op("Max", less, net.ints(0))
    chosen = net.op("Where", net.op("Equal", less, net.ints(-1)), net.ints(4), net.ints(0))
    padded = [net.op("Pad", x, net.op("Concat", net.ints(0, 0, 0), end, axis=0)) for end in (larger, chosen)]
    view = view_of(net.export(padded))
    found = {value.name: value.shape for value in view.values()}
    length = symbol("dim_s")
    for output, claim in zip(padded, (dims.add(length, dims.subtract(length, 4)), length), strict=True):
        shape = found[output]
        assert shape is not None and shape[0] == symbol("dim_b") and shape[1] != claim


def test_relative_values_that_all_heads_read_make_no_group() -> None:
    """Shaw's relative positions: the context is a sum of two products, one of them with a table without heads."""
    net = Net(SYMBOLIC)
    x = net.input("x", (B, S, WIDTH), "b--")

    heads = partial(split, net, x)
    weights = _softmax(net, net.op("MatMul", heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1)))
    # The size of the table depends on the batch, as VITS pads its own by the length: no constant.
    once = net.op("Div", net.piece(net.op("Shape", x), 0), net.piece(net.op("Shape", x), 0))
    table = net.op("Tile", net.weight("relative", S, D), net.op("Concat", once, net.ints(1), axis=0))
    context = net.op(
        "Add", net.op("MatMul", weights, heads("v", 0, 2, 1, 3)), net.op("MatMul", weights, table)
    )
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    output = net.op("MatMul", merged, net.weight("o", H * D, WIDTH))
    _exact(net, output)
    assert [site.kv_num_heads for site in inspect(net.export([output]))] == [H]


def test_a_slice_of_a_padded_axis_reads_all_of_what_was_padded() -> None:
    """The relative shift pads and cuts positions of known number, next to the heads."""

    def weigh(net: Net, scores: Any) -> Any:
        padded = net.op("Pad", scores, net.ints(0, 0, 0, 1, 0, 0, 0, 0))
        return _softmax(net, net.op("Slice", padded, net.ints(0), net.ints(S), net.ints(3)))

    _exact(*_attention(STATIC, weigh))


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_two_products_with_one_map_are_one_head(plan: Blueprint) -> None:
    """Differential Llama: two maps a head, and its values in two pieces that both maps read, tiled."""
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")

    def heads(name: str, *order: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, 2 * H * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, 2 * H, D)), perm=list(order))

    maps = _softmax(net, net.op("MatMul", heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1)))
    pieces = net.op("Split", heads("v", 0, 2, 1, 3), outputs=2, axis=1)
    contexts = [net.op("MatMul", maps, net.op("Tile", piece, net.ints(1, 2, 1, 1))) for piece in pieces]
    joined = net.op("Transpose", net.op("Concat", *contexts, axis=-1), perm=[0, 2, 1, 3])
    first, second = net.op("Split", joined, outputs=2, axis=2)
    merged = net.op("Reshape", net.op("Sub", first, second), net.ints(0, 0, H * 2 * D))
    _exact(net, net.op("MatMul", merged, net.weight("o", H * 2 * D, WIDTH)))


@pytest.mark.parametrize("einsum", [False, True], ids=("matmul", "einsum"))
@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_weights_within_heads_lie_between_context_and_projection(plan: Blueprint, einsum: bool) -> None:
    """Absorbed latent attention: all heads read one latent, each lifts its context by weights of its own."""
    net, rank = Net(plan), 5
    x = net.input("x", (B, S, WIDTH), "bs-")
    latent = net.op("MatMul", x, net.weight("latent", WIDTH, rank))
    q = net.op("Reshape", net.op("MatMul", x, net.weight("q", WIDTH, H * D)), net.ints(0, 0, H, D))
    absorb, lift = net.weight("absorb", H, D, rank), net.weight("lift", H, rank, D)
    if einsum:
        q = net.op("Einsum", q, absorb, equation="bshd,hdr->bshr")
        weights = _softmax(net, net.op("Einsum", q, latent, equation="bshr,btr->bsht"))
        context = net.op("Einsum", weights, latent, equation="bsht,btr->bshr")
        lifted = net.op("Einsum", context, lift, equation="bshr,hrd->bshd")
    else:
        q = net.op("MatMul", net.op("Transpose", q, perm=[0, 2, 1, 3]), absorb)
        shared = net.op("Unsqueeze", latent, net.ints(1))
        weights = _softmax(net, net.op("MatMul", q, net.op("Transpose", shared, perm=[0, 1, 3, 2])))
        lifted = net.op(
            "Transpose", net.op("MatMul", net.op("MatMul", weights, shared), lift), perm=[0, 2, 1, 3]
        )
    merged = net.op("Reshape", lifted, net.ints(0, 0, H * D))
    output = net.op("Add", net.op("MatMul", merged, net.weight("o", H * D, WIDTH)), x)
    _exact(net, output)
    assert [(site.kind, site.v_head_size) for site in inspect(net.export([output]))] == [("mqa", D)]


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_transposed_convolutions_project(plan: Blueprint) -> None:
    """With kernel 1 they are convolutions whose weight is stored the other way round."""
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")
    channels_first = net.op("Transpose", x, perm=[0, 2, 1])
    packed = net.op("ConvTranspose", channels_first, net.weight("qkv", WIDTH, 3 * H * D, 1))
    q, k, v = net.op("Split", net.op("Reshape", packed, net.ints(0, 3 * H, D, -1)), outputs=3, axis=1)
    weights = _softmax(net, net.op("MatMul", net.op("Transpose", q, perm=[0, 1, 3, 2]), k))
    context = net.op("MatMul", v, net.op("Transpose", weights, perm=[0, 1, 3, 2]))
    merged = net.op("Reshape", context, net.ints(0, H * D, -1))
    summed = net.op("ConvTranspose", merged, net.weight("o", H * D, WIDTH, 1), net.weight("bias", WIDTH))
    _exact(net, net.op("Add", x, net.op("Transpose", summed, perm=[0, 2, 1])))


@pytest.mark.parametrize("plan", [STATIC, SYMBOLIC], ids=("static", "dynamic"))
def test_positions_are_counted_by_what_is_not_zero(plan: Blueprint) -> None:
    """TorchScript counts by NonZero of ones, and reads strided windows (Longformer's) from one flat list."""
    net = Net(plan)
    x = net.input("x", (B, S, WIDTH), "bs-")
    length = net.piece(net.op("Shape", x), 1)
    batch = net.op("Mul", net.piece(net.op("Shape", x), 0), net.ints(H))

    def folded(name: str, *order: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, H * D))
        apart = net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, H, D)), perm=list(order))
        rows = [net.ints(D), length] if order[3] == 1 else [length, net.ints(D)]
        return net.op("Reshape", apart, net.op("Concat", batch, *rows, axis=0))

    def counted(size: Any, step: Any, *place: int) -> Any:
        ones = net.op("ConstantOfShape", size, value=numpy_helper.from_array(np.array([1])))
        column = net.op("Transpose", net.op("NonZero", ones), perm=[1, 0])
        numbers = net.op("Squeeze", column, net.ints(1))
        return net.op("Mul", net.op("Reshape", numbers, net.ints(*place)), step)

    head = net.op("Mul", length, net.ints(D))
    rows = net.op("Add", counted(batch, head, -1, 1, 1), counted(length, net.ints(D), 1, -1, 1))
    places = net.op("Add", rows, counted(net.ints(D), net.ints(1), 1, 1, -1))
    values = net.op("Gather", net.op("Reshape", folded("v", 0, 2, 1, 3), net.ints(-1)), places)
    weights = _softmax(net, net.op("MatMul", folded("q", 0, 2, 1, 3), folded("k", 0, 2, 3, 1)))
    target = net.op("Concat", net.ints(-1, H), length, net.ints(D), axis=0)
    context = net.op("Reshape", net.op("MatMul", weights, values), target)
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    model = net.export([net.op("MatMul", merged, net.weight("o", H * D, WIDTH))])
    assert [site.num_heads for site in inspect(model)] == [H]
    for gone in ([1], [0, 2]):
        # The numbers of the rows that are read, not what they hold.
        check_cut(model, net.feed, gone, gathers=1)
