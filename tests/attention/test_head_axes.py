"""Heads in unusual places: along a group's queries, on the batch axis, one by one, behind sizes rounded up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.shape_inference import infer_shapes

from onnxheadprune.attention.legal_cuts import is_legal
from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.model.storage.tensors import stored_size
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN, STATIC
from tests.attention.cuts import check_cut, check_exact
from tests.attention.net_parts import WIDTH, B, D, H, S, merged, split

RATIO, GROUPS = 2, 2


def _exact(net: Net, output: Any, kind: str, kv_num_heads: int, *sets: list[int], whole: bool = True) -> None:
    """The heads are found, their groups too, and pruned equals masked; without all of them too, if `whole`."""
    model = net.export([output])
    (site,) = inspect(model)
    found = (site.kind, site.num_heads, site.kv_num_heads, site.head_size, site.v_head_size)
    assert found == (kind, H, kv_num_heads, D, D)
    for gone in (*sets, *([list(range(H))] if whole else [])):
        check_cut(model, net.feed, gone)


def _projected(net: Net, x: Any, heads: int = H) -> Callable[[str], Any]:
    return lambda name: net.op("MatMul", x, net.weight(name, WIDTH, heads * D))


def _weighted(net: Net, q: Any, k: Any, v: Any) -> Any:
    return net.op("MatMul", net.op("Softmax", net.op("MatMul", q, k), axis=-1), v)


def _in_a_row(net: Net, letters: str, target: Any = None, summed: int = 1) -> Any:
    x = net.input("x", (B, S, WIDTH), letters)

    def heads(name: str, count: int, *order: int) -> Any:
        return split(net, x, name, *order, heads=count)

    q = net.op("Reshape", heads("q", H, 0, 2, 1, 3), net.ints(0, GROUPS, -1, D))
    context = None
    for _ in range(summed):
        more = _weighted(net, q, heads("k", GROUPS, 0, 2, 3, 1), heads("v", GROUPS, 0, 2, 1, 3))
        context = more if context is None else net.op("Add", context, more)
    apart = net.op(
        "Transpose", net.op("Reshape", context, target or net.ints(0, H, -1, D)), perm=[0, 2, 1, 3]
    )
    merged = net.op("Reshape", apart, net.ints(0, 0, H * D))
    return net.op("MatMul", merged, net.weight("o", H * D, WIDTH))


@pytest.mark.parametrize("symbolic", [False, True])
def test_queries_of_a_group_stand_in_a_row(symbolic: bool) -> None:
    """[B, K, G*S, D]: neighbours along the queries belong to one head, so that is the slower axis, not the features."""
    net = Net(replace(STATIC, symbolic=symbolic))
    _exact(net, _in_a_row(net, "bs-"), "gqa", GROUPS, [0, 2], [2, 3])


@pytest.mark.parametrize("symbolic", [False, True])
def test_queries_of_a_group_stand_in_a_row_of_a_folded_batch(symbolic: bool) -> None:
    """[B*K, G*S, D], as tf2onnx writes an einsum of grouped queries: two axes of heads, and of neither a known size."""
    net = Net(replace(STATIC, symbolic=symbolic))
    x = net.input("x", (B, S, WIDTH), "bs-")
    batch, length = (net.op("Shape", x, start=axis, end=axis + 1) for axis in (0, 1))

    def folded(name: str, count: int, *order: int) -> Any:
        shape = [net.op("Mul", batch, net.ints(GROUPS)), net.ints(D)]
        shape.insert(order.index(1), net.op("Mul", length, net.ints(count // GROUPS)))
        return net.op(
            "Reshape", split(net, x, name, 0, *order, heads=count), net.op("Concat", *shape, axis=0)
        )

    context = _weighted(
        net, folded("q", H, 2, 1, 3), folded("k", GROUPS, 2, 3, 1), folded("v", GROUPS, 2, 1, 3)
    )
    apart = net.op("Reshape", context, net.op("Concat", batch, net.ints(H, -1, D), axis=0))
    output = net.op("MatMul", merged(net, apart), net.weight("o", H * D, WIDTH))
    _exact(net, output, "gqa", GROUPS, [0, 2], [2, 3])


@pytest.mark.parametrize("computed", [False, True], ids=["of inputs", "of data"])
def test_whether_fixed_sizes_help_is_tried(computed: bool) -> None:
    """Rows are as long as another input, or as a shape says that the model reads: only the first is known then."""
    net = Net(replace(STATIC, symbolic=True))
    other = net.op("Shape", net.input("other", (1, S), "-p"), start=1, end=2)
    length = net.op("Concat", net.ints(0, H), other, net.ints(D), axis=0)
    model = net.export([_in_a_row(net, "bs-", length)])
    if computed:
        (concat,) = (node for node in model.graph.node if node.op_type == "Concat")
        model.graph.node.remove(concat)
        info = onnx.helper.make_tensor_value_info(concat.output[0], onnx.TensorProto.INT64, [4])
        model.graph.input.append(info)
    misses = inspect(model).near_misses
    helps = ["in an export with fixed sizes its heads are found" in str(miss.reason) for miss in misses]
    for dim in (axis for info in model.graph.input for axis in info.type.tensor_type.shape.dim):
        dim.dim_value = dim.dim_value or S
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    fixed = inspect(model)
    assert helps == [not computed]
    assert bool(len(fixed)) is not computed
    assert not any("fixed sizes" in str(miss.reason) for miss in fixed.near_misses)


@pytest.mark.parametrize("summed", [1, 2, 3])
def test_contexts_that_are_summed_are_near_misses_for_what_hides_the_sum(summed: int) -> None:
    """BigBird adds what a block attends to in several pieces."""
    net = Net(replace(STATIC, symbolic=True))
    other = net.op("Shape", net.input("other", (1, S), "-p"), start=1, end=2)
    length = net.op("Concat", net.ints(0, H), other, net.ints(D), axis=0)
    misses = inspect(net.export([_in_a_row(net, "bs-", length, summed)])).near_misses
    assert len(misses) == summed
    assert len({str(miss.reason) for miss in misses}) == 1
    assert "cannot be followed through" in str(misses[0].reason)


def test_heads_of_a_fixed_batch_are_joined_on_its_axis() -> None:
    """Split and Concat: a piece that is one head's alone still says whose, so the values are no shared ones."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    project = _projected(net, x)
    pieces = net.ints(*(D for _ in range(H)))

    def heads(name: str) -> Any:
        split = net.op("Split", project(name), pieces, outputs=H, axis=2)
        return net.op("Concat", *split, axis=0)

    q, k, v = heads("q"), heads("k"), heads("v")
    context = _weighted(net, q, net.op("Transpose", k, perm=[0, 2, 1]), v)
    parts = net.op("Split", context, net.ints(*(B for _ in range(H))), outputs=H, axis=0)
    merged = net.op("Concat", *parts, axis=2)
    _exact(net, net.op("MatMul", merged, net.weight("o", H * D, WIDTH)), "mha", H, [1], [0, 2])


@pytest.mark.parametrize("style", ["modules", "slices"])
def test_heads_computed_one_by_one_share_no_values(style: str) -> None:
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    project, own = _projected(net, x), _projected(net, x, 1)
    wide = {name: project(name) for name in "qkv"}

    def part(name: str, head: int) -> Any:
        if style == "modules":
            return own(name)
        return net.op(
            "Slice", wide[name], net.ints(head * D), net.ints(head * D + D), net.ints(2), net.ints(1)
        )

    contexts = []
    for head in range(H):
        q, k, v = (part(name, head) for name in "qkv")
        contexts.append(_weighted(net, q, net.op("Transpose", k, perm=[0, 2, 1]), v))
    merged = net.op("Concat", *contexts, axis=2)
    _exact(net, net.op("MatMul", merged, net.weight("o", H * D, WIDTH)), "mha", H, [1], [0, 2])


def test_maps_of_single_heads_are_stacked() -> None:
    """`torch.stack` of what a map per head makes, one product for all, and each context is picked by itself."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    own, axis = _projected(net, x, 1), net.ints(1)

    def heads(name: str) -> Any:
        return net.op("Concat", *(net.op("Unsqueeze", own(name), axis) for _ in range(H)), axis=1)

    context = _weighted(net, heads("q"), net.op("Transpose", heads("k"), perm=[0, 1, 3, 2]), heads("v"))
    picked = [net.op("Slice", context, net.ints(head), net.ints(head + 1), axis) for head in range(H)]
    merged = net.op("Concat", *(net.op("Squeeze", piece, axis) for piece in picked), axis=2)
    _exact(net, net.op("MatMul", merged, net.weight("o", H * D, WIDTH)), "mha", H, [1], [0, 2])


@pytest.mark.parametrize("spelled", ["MatMul", "Einsum"])
def test_maps_per_head_are_added_up(spelled: str) -> None:
    """`(context @ W_o).sum(1)`: each head has an output map of its own, and the next node sums over heads."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    project = _projected(net, x)

    def heads(name: str, *order: int) -> Any:
        return net.op("Transpose", net.op("Reshape", project(name), net.ints(0, 0, H, D)), perm=list(order))

    context = _weighted(net, heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1), heads("v", 0, 2, 1, 3))
    equation = {"equation": "bhsd,hdw->bhsw"} if spelled == "Einsum" else {}
    results = net.op(spelled, context, net.weight("o", H, D, WIDTH), **equation)
    output = net.op("ReduceSum", results, net.ints(1), keepdims=0)
    _exact(net, output, "mha", H, [1], [0, 2])

    model = infer_shapes(net.export([output]))
    pruned = apply_plan(analyse(model, {0: [1]}, "declared").plan, model)
    onnx.checker.check_model(pruned, full_check=True)
    # A refit knows maps of one matrix.
    assert Linear.of(inspect(model)[0].projections[0]) is None


@pytest.mark.each_choice
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("kv", [H, H // 2, 1])
def test_positions_that_no_projection_reads_are_no_heads(first: int, kv: int) -> None:
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")

    def heads(name: str, count: int) -> Any:
        flat = net.op("MatMul", x, net.weight(name, WIDTH, count * D))
        return net.op("Transpose", net.op("Reshape", flat, net.ints(0, 0, count, D)), perm=[0, 2, 1, 3])

    def repeated(name: str) -> Any:
        wide = net.op(
            "Expand", net.op("Unsqueeze", heads(name, kv), net.ints(2)), net.ints(1, 1, H // kv, 1, 1)
        )
        return net.op("Reshape", wide, net.ints(0, H, -1, D)) if kv < H else heads(name, kv)

    keys = net.op("Transpose", repeated("k"), perm=[0, 1, 3, 2])
    context = _weighted(net, heads("q", H), keys, repeated("v"))
    read = net.op("Slice", context, net.ints(first), net.ints(first + 2), net.ints(1))
    merged = net.op("Reshape", net.op("Transpose", read, perm=[0, 2, 1, 3]), net.ints(0, 0, 2 * D))
    model = net.export([net.op("MatMul", merged, net.weight("o", 2 * D, WIDTH))])
    (site,) = inspect(model)
    assert (site.num_heads, site.removable) == (2, True)
    assert 0 < site.params <= stored_size(model).elements
    for gone in ([0], [1], [0, 1]):
        if kv == H or len(gone) > 1:
            check_cut(model, net.feed, gone)


def _block(net: Net, x: Any, length: Any = None, after: Callable[[Any], Any] = lambda merged: merged) -> Any:
    """Plain attention; `length` is the sequence in the target of the merging Reshape."""
    project = _projected(net, x)

    def heads(name: str, *order: int) -> Any:
        return net.op("Transpose", net.op("Reshape", project(name), net.ints(B, -1, H, D)), perm=list(order))

    context = _weighted(net, heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1), heads("v", 0, 2, 1, 3))
    apart = net.op("Transpose", context, perm=[0, 2, 1, 3])
    tail = net.ints(S) if length is None else length
    merged = net.op("Reshape", apart, net.op("Concat", net.ints(B), tail, net.ints(H * D), axis=0))
    return net.op("MatMul", after(merged), net.weight("o", H * D, WIDTH))


def test_a_group_norm_with_one_group_per_head() -> None:
    """Its groups are the heads, so whole groups go: the rule counts them again."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")

    def normed(merged: Any) -> Any:
        rows = net.op("Reshape", merged, net.ints(B * S, H * D))
        vectors = net.weight("scale", H * D), net.weight("bias", H * D)
        made = net.op("GroupNormalization", rows, *vectors, num_groups=H, epsilon=1e-5)
        return net.op("Reshape", made, net.ints(B, S, H * D))

    _exact(net, _block(net, x, after=normed), "mha", H, [1], [0, 2])


def test_a_size_that_is_rounded_up_is_a_number() -> None:
    """`ceil(size / 2) * 2` in floats, as exporters compute the patches of an image of known size."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    rows = net.op("Cast", net.piece(net.op("Shape", x), 1), to=1)
    half = net.op("Ceil", net.op("Div", rows, net.op("Constant", value_float=2.0)))
    even = net.op("Cast", net.op("Mul", half, net.op("Constant", value_float=2.0)), to=7)
    padded = net.op(
        "Pad", x, net.op("Concat", *(net.ints(0) for _ in range(4)), net.ints(1), net.ints(0), axis=0)
    )
    _exact(net, _block(net, padded, length=even), "mha", H, [1], [0, 2])


def test_a_range_between_floats_has_a_number_of_elements() -> None:
    """Rotary positions of patches run from 0.5 in steps of 1."""
    net = Net(STATIC)
    x = net.input("x", (B, S, WIDTH), "b--")
    start, step = (net.op("Constant", value_float=number) for number in (0.5, 1.0))
    stop = net.op("Cast", net.op("Squeeze", net.piece(net.op("Shape", x), 1)), to=1)
    positions = net.op("Range", start, stop, step)
    _exact(net, _block(net, x, length=net.op("Shape", positions)), "mha", H, [1], [0, 2])


def test_heads_of_two_kinds_side_by_side() -> None:
    """ConvBERT: some heads attend, others convolve with a kernel of their own, and one projection sums over all."""
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")

    heads = partial(split, net, x)
    weights = net.op("Softmax", net.op("MatMul", heads("q", 0, 2, 1, 3), heads("k", 0, 2, 3, 1)), axis=-1)
    attended = net.op("Transpose", net.op("MatMul", weights, heads("v", 0, 2, 1, 3)), perm=[0, 2, 1, 3])
    taps = net.op("Reshape", net.op("MatMul", x, net.weight("taps", WIDTH, H * 2)), net.ints(-1, 2, 1))
    rows = net.op("MatMul", x, net.weight("c", WIDTH, H * D))
    pair = [net.op("Gather", rows, net.ints(*order), axis=1) for order in (range(S), reversed(range(S)))]
    pair = [net.op("Reshape", picked, net.ints(-1, D, 1)) for picked in pair]
    convolved = net.op("MatMul", net.op("Concat", *pair, axis=-1), net.op("Softmax", taps, axis=1))
    convolved = net.op("Reshape", convolved, net.op("Shape", attended))
    merged = net.op("Reshape", net.op("Concat", attended, convolved, axis=2), net.ints(0, 0, 2 * H * D))
    model = net.export([net.op("Add", x, net.op("MatMul", merged, net.weight("o", 2 * H * D, WIDTH)))])
    (site,) = inspect(model)
    assert (site.num_heads, site.kv_num_heads) == (2 * H, 2 * H)
    for gone in ([0], [H], [1, H + 1, H], list(range(H)), list(range(2 * H))):
        planning = analyse(model, {0: gone}, "two kinds")
        check_exact(planning, model, net.feed)


def test_groups_of_different_sizes_do_not_bind_each_other() -> None:
    groups = ((0,), (1,), (2, 3), (4, 5))
    assert all(is_legal(groups, gone) for gone in ({0}, {0, 1}, {2, 3}, {2, 5}, {0, 2, 4}))
    assert not is_legal(groups, {2})
    assert not is_legal(groups, set(range(6)))


def _values_through(
    net: Net, through: Callable[[Any], Any], kv: int = H, source: Callable[[Any], Any] = lambda x: x
) -> Any:
    """A block of some source whose values `[B, kv, S, D]` pass an operator before the core."""
    x = source(net.input("x", (B, S, WIDTH), "bs-"))

    def heads(name: str, count: int, *order: int) -> Any:
        return split(net, x, name, *order, heads=count)

    values = through(heads("v", kv, 0, 2, 1, 3))
    context = _weighted(net, heads("q", H, 0, 2, 1, 3), heads("k", H, 0, 2, 3, 1), values)
    merged = net.op("Reshape", net.op("Transpose", context, perm=[0, 2, 1, 3]), net.ints(0, 0, H * D))
    return net.op("MatMul", merged, net.weight("o", H * D, WIDTH))


def _by_heads_in_the_batch(net: Net, values: Any) -> Any:
    """MViT: a depthwise convolution over the positions, of each head by itself."""
    folded = net.op("Reshape", net.op("Transpose", values, perm=[0, 1, 3, 2]), net.ints(-1, D, S))
    pooled = net.op("Conv", folded, net.weight("pool", D, 1, 3), group=D, kernel_shape=[3], pads=[1, 1])
    apart = net.op("Reshape", pooled, net.ints(-1, H, D, S))
    return net.op("Transpose", apart, perm=[0, 1, 3, 2])


def _by_picked_positions(net: Net, values: Any) -> Any:
    """BigBird: each head picks positions of its own."""
    own = np.random.default_rng(0).integers(0, S, B * H * S * D)
    picks = net.op("Reshape", net.ints(*own.tolist()), net.ints(B, H, S, D))
    return net.op("GatherElements", values, picks, axis=2)


def _by_cropped_positions(net: Net, values: Any) -> Any:
    """Some positions are read by no head, and tokens are nobody's."""
    kept = net.op("Slice", values, net.ints(1), net.ints(S), net.ints(2))
    return net.op("Pad", kept, net.ints(0, 0, 1, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("through", [_by_heads_in_the_batch, _by_picked_positions, _by_cropped_positions])
def test_values_stay_each_heads_own(through: Callable[[Net, Any], Any]) -> None:
    net = Net(STATIC)
    _exact(net, _values_through(net, lambda values: through(net, values)), "mha", H, [1], [0, 2])


@pytest.mark.parametrize("kv", [1, H])
def test_what_all_heads_read_of_other_layers_is_not_shared(kv: int) -> None:
    """BigBird crops tokens, and a layer below multiplies them with a stored mask, of which all heads read some."""
    net = Net(STATIC)

    def masked(x: Any) -> Any:
        kept = net.op("Mul", x, net.weight("mask", 1, S, 1))
        layer = net.op(
            "MatMul",
            net.op("Relu", net.op("MatMul", kept, net.weight("up", WIDTH, 5))),
            net.weight("down", 5, WIDTH),
        )
        return net.op("Add", x, layer)

    output = _values_through(net, lambda values: _by_cropped_positions(net, values), kv, masked)
    # Without any head nothing would be left of the layer below.
    _exact(net, output, "mha" if kv > 1 else "mqa", kv, [1], [0, 2], whole=False)


@pytest.mark.parametrize("kv", [1, H])
def test_what_no_rule_passes_on_is_not_called_shared(kv: int) -> None:
    """Unknown is not shared: nobody knows whether heads still have values of their own, and each cut is exact."""
    net = Net(STATIC)

    def normalized(values: Any) -> Any:
        known = net.op("LRN", net.op("Transpose", values, perm=[0, 3, 1, 2]), size=3)
        return net.op("Transpose", known, perm=[0, 2, 3, 1])

    model = net.export([_values_through(net, normalized, kv)])
    (site,) = inspect(model)
    if kv == 1:
        assert (site.kind, site.kv_num_heads) == ("mqa", 1)
    else:
        assert (site.kind, site.to_dict()["kv_num_heads"], site.kv_count) == ("unknown", None, "?")
        assert is_legal(site.groups, {1})
    for gone in ([1], [0, 2]):
        check_cut(model, net.feed, gone, gathers=int(kv > 1))
