"""A projection is the heads' own, or the site is refused: silent at the core is silent at the projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnxheadprune import plan_pruning
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.refusals import Reason
from tests.attention.block_graph import Net
from tests.attention.blueprint import PLAIN, STATIC
from tests.attention.cuts import check_cut
from tests.graph_text import model_of

B, S, D = 2, 5, 2
FIXED, DYNAMIC = STATIC, replace(PLAIN, target="zero", opset=21)
PLANS = pytest.mark.parametrize("plan", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])


class Attending:
    """Self-attention as wide as its input, with the pieces that tests put between its context and a projection."""

    def __init__(self, plan: Any, heads: int) -> None:
        self.net = Net(plan)
        self.outputs: list[str] = []
        self.heads, self.width = heads, heads * D
        self.x = self.net.input("x", (B, S, self.width), "bs-")
        self.q, k, self.v = (self.linear(self.x, name, self.width) for name in "qkv")
        scores = self.net.op("MatMul", self.split(self.q, 0, 2, 1, 3), self.split(k, 0, 2, 3, 1))
        masked = self.net.op("Add", scores, self.net.input("mask", (B, 1, S, S), "b-ss"))
        self.weights = self.net.op("Softmax", masked, axis=-1)
        context = self.net.op("MatMul", self.weights, self.split(self.v, 0, 2, 1, 3))
        back = self.net.op("Transpose", context, perm=[0, 2, 1, 3])
        self.merged = self.net.op("Reshape", back, self.net.ints(0, 0, self.width))

    def linear(self, data: Any, name: str, width: int) -> Any:
        return self.net.op("MatMul", data, self.net.weight(name, self.width, width))

    def split(self, data: Any, *order: int) -> Any:
        apart = self.net.op("Reshape", data, self.net.ints(0, 0, self.heads, D))
        return self.net.op("Transpose", apart, perm=list(order))

    def vector(self, name: str) -> Any:
        return self.net.weight(name, self.width)


def residual(it: Attending) -> Any:
    return it.net.op("Add", it.merged, it.x)


def residual_normed(it: Attending) -> Any:
    return it.net.op("LayerNormalization", residual(it), it.vector("gain"), it.vector("shift"), axis=-1)


def residual_gated(it: Attending) -> Any:
    return it.net.op("Mul", residual(it), it.net.op("Sigmoid", it.linear(it.x, "gate", it.width)))


def residual_first(it: Attending) -> Any:
    return it.net.op("Sum", it.x, it.merged)


def residual_subtracted(it: Attending) -> Any:
    return it.net.op("Sub", it.merged, it.x)


def residual_where_masked(it: Attending) -> Any:
    zero = it.net.weight("zero", 1)
    return it.net.op("Where", it.net.op("Greater", it.x, zero), it.merged, it.x)


def one_number_per_token(it: Attending) -> Any:
    return it.net.op("Add", it.merged, it.net.op("ReduceMean", it.x, it.net.ints(-1), keepdims=1))


def beside_another_layer(it: Attending) -> Any:
    """Two layers with one projection: the second is no attention."""
    return it.net.op("Add", it.merged, it.linear(it.x, "other", it.width))


def embedded(it: Attending) -> Any:
    ids = it.net.op("Cast", it.net.op("ReduceMax", it.x, it.net.ints(-1), keepdims=0), to=7)
    return it.net.op("Add", it.merged, it.net.op("Gather", it.net.weight("table", 9, it.width), ids))


def projected_and_read_again(it: Attending) -> Any:
    """What is added has weights of its own, but they are read elsewhere, too."""
    made = it.linear(it.x, "other", it.width)
    it.outputs.append(it.net.op("Relu", made))
    return it.net.op("Add", it.merged, made)


FOREIGN: dict[str, Callable[[Attending], Any]] = {
    build.__name__: build
    for build in (
        residual,
        residual_normed,
        residual_gated,
        residual_first,
        residual_subtracted,
        residual_where_masked,
        one_number_per_token,
        beside_another_layer,
        embedded,
        projected_and_read_again,
    )
}


@pytest.mark.each_choice
@PLANS
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("how", FOREIGN)
def test_what_is_added_is_no_heads(how: str, heads: int, plan: Any) -> None:
    """T2T: one head, no output projection; the next linear layer reads the residual stream, not the heads."""
    it = Attending(plan, heads)
    made = it.linear(FOREIGN[how](it), "next", it.width)
    model = it.net.export([*it.outputs, made])
    (site,) = inspect(model)
    assert site.num_heads == heads
    assert site.reason is not None
    mixed = how == "residual_normed" and heads > 1
    assert site.reason.reason is (Reason.COUPLED if mixed else Reason.NO_PROJECTION)
    with pytest.raises(RefusedError):
        plan_pruning(model, heads={0: [0]})


@PLANS
def test_one_head_that_is_read_beside_the_projection(plan: Any) -> None:
    """The feed-forward layer reads the context alone, but its residual connection takes the context past it."""
    it = Attending(plan, 1)
    made = it.net.op("Add", it.merged, it.linear(it.net.op("Relu", it.merged), "next", it.width))
    (site,) = inspect(it.net.export([made]))
    assert site.reason is not None
    assert site.reason.reason is Reason.NO_PROJECTION


def alone(it: Attending) -> Any:
    return it.merged


def biased(it: Attending) -> Any:
    return it.net.op("Add", it.merged, it.vector("bias"))


def biased_and_gated(it: Attending) -> Any:
    return it.net.op("Mul", biased(it), it.net.op("Sigmoid", it.linear(it.x, "gate", it.width)))


def gated_by_the_stream(it: Attending) -> Any:
    return it.net.op("Mul", it.x, it.merged)


def divided(it: Attending) -> Any:
    return it.net.op("Div", it.merged, it.net.op("Exp", it.linear(it.x, "scale", it.width)))


def normed_per_head(it: Attending) -> Any:
    apart = it.net.op("Reshape", it.merged, it.net.ints(0, 0, it.heads, D))
    gain, shift = (it.net.weight(name, D) for name in ("gain", "shift"))
    normed = it.net.op("LayerNormalization", apart, gain, shift, axis=-1)
    return it.net.op("Reshape", normed, it.net.ints(0, 0, it.width))


def with_its_values(it: Attending) -> Any:
    """Local enhancement (CSWin): the values once more, weighted by channel."""
    return it.net.op("Add", it.merged, it.net.op("Mul", it.v, it.vector("local")))


def with_its_queries(it: Attending) -> Any:
    """Residual pooling (MViTv2): the queries once more."""
    return it.net.op("Add", it.merged, it.q)


def with_its_attention_weights(it: Attending) -> Any:
    """Relative positions for values (VITS): the attention weights, masked like all of them, times a table."""
    apart = it.net.op("Slice", it.net.weight("table", S + 1, D), *(it.net.ints(n) for n in (1, S + 1, 0)))
    shifted = it.net.op("Transpose", it.net.op("MatMul", it.weights, apart), perm=[0, 2, 1, 3])
    return it.net.op("Add", it.merged, it.net.op("Reshape", shifted, it.net.ints(0, 0, it.width)))


def chosen(it: Attending) -> Any:
    zeros = np.zeros(1, dtype=np.float32)
    zero = it.net.op("Constant", value_floats=zeros.tolist())
    return it.net.op("Where", it.net.op("Greater", it.x, zero), it.merged, zero)


OWN: dict[str, Callable[[Attending], Any]] = {
    build.__name__: build
    for build in (
        alone,
        biased,
        biased_and_gated,
        gated_by_the_stream,
        divided,
        normed_per_head,
        with_its_values,
        with_its_queries,
        with_its_attention_weights,
        chosen,
    )
}


@pytest.mark.each_choice
@PLANS
@pytest.mark.parametrize("how", OWN)
def test_what_goes_with_the_head_is_its_own(how: str, plan: Any) -> None:
    it = Attending(plan, 4)
    made = it.linear(OWN[how](it), "next", it.width)
    model = it.net.export([it.net.op("Add", it.x, made)])
    (site,) = inspect(model)
    assert site.reason is None
    _cut(model, it.net, how, [[1], [0, 2], [0, 1, 2, 3]])


def _cut(model: Any, net: Net, how: str, sets: Sequence[list[int]]) -> None:
    for gone in sets:
        if how in ("gated_by_the_stream", "chosen"):
            # What the stream says of a head is gathered from it: exact, with an edge gather.
            plan_pruning(model, heads={0: gone})
        else:
            check_cut(model, net.feed, gone)


@pytest.mark.each_choice
@PLANS
@pytest.mark.parametrize(
    "how", ["alone", "biased", "gated_by_the_stream", "with_its_values", "with_its_queries"]
)
def test_one_head_with_a_projection_of_its_own(how: str, plan: Any) -> None:
    it = Attending(plan, 1)
    made = it.linear(OWN[how](it), "next", it.width)
    model = it.net.export([it.net.op("Add", it.x, made)])
    (site,) = inspect(model)
    assert site.reason is None
    check_cut(model, it.net.feed, [0])


def test_queries_that_are_pooled_are_added_to_their_own_heads() -> None:
    """MViT: a depthwise convolution with heads in its batch pools queries, which are added to the context of each."""
    model = model_of(
        """<ir_version: 9, opset_import: ["" : 17]>
    g (float[2, 5, 6] x) => (float[2, 5, 6] y)
    <float[6, 8] q, float[6, 8] k, float[6, 8] v, float[8, 6] o, float[2, 1, 3] pool, float[2] bias,
     int64[4] apart = {0, 0, 4, 2}, int64[3] folded = {-1, 5, 2}, int64[4] back = {2, 4, 5, 2},
     int64[3] merged = {0, 0, 8}> {
      qf = MatMul(x, q)  q4 = Reshape(qf, apart)  qt = Transpose<perm = [0, 2, 1, 3]>(q4)  qr = Reshape(qt, folded)
      qc = Transpose<perm = [0, 2, 1]>(qr)  qp = Conv<group = 2, pads = [1, 1]>(qc, pool, bias)
      qb = Transpose<perm = [0, 2, 1]>(qp)  qh = Reshape(qb, back)
      kf = MatMul(x, k)  k4 = Reshape(kf, apart)  kh = Transpose<perm = [0, 2, 3, 1]>(k4)
      vf = MatMul(x, v)  v4 = Reshape(vf, apart)  vh = Transpose<perm = [0, 2, 1, 3]>(v4)
      s = MatMul(qh, kh)  m = Softmax<axis = -1>(s)  c = MatMul(m, vh)  a = Add(c, qh)
      ct = Transpose<perm = [0, 2, 1, 3]>(a)  cm = Reshape(ct, merged)  y = MatMul(cm, o)
    }"""
    )
    (site,) = inspect(model)
    assert (site.num_heads, site.kv_num_heads, site.reason) == (4, 4, None)
    feed = {"x": np.random.default_rng(2).uniform(-1, 1, (2, 5, 6)).astype(np.float32)}
    for gone in ([1], [0, 3]):
        check_cut(model, feed, gone)
