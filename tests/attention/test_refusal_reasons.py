"""What was refused for reasons that were not true: found and cut, or refused with the node that hides the heads."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from onnxheadprune import inspect
from onnxheadprune.choosing.activations.contexts import projection_matrix
from tests.attention.attention_text import (
    FEED,
    MERGED,
    PROJECTED,
    QUERIES_KEYS_VALUES,
    WIDTH,
    D,
    H,
    attention,
)
from tests.attention.cuts import check_cut

CUTS = ([1], [0, 2], [0, 1, 2])


def _exact(model: ModelProto, feed: dict[str, np.ndarray] = FEED, *, gathers: int = 0) -> None:
    (site,) = (sites := inspect(model))
    assert (site.num_heads, site.head_size, site.removable) == (H, D, True)
    assert not sites.near_misses and not sites.no_heads
    for gone in CUTS:
        check_cut(model, feed, gone, gathers=gathers if len(gone) < H else 0)


GROUPS = {
    "one group per head": (3, 12, 4),
    "two groups per head": (6, 12, 2),
    "a group per channel": (12, 12, 1),
    "more channels than it reads": (3, 24, 4),
    "fewer channels than it reads": (3, 6, 4),
}


@pytest.mark.each_choice
@pytest.mark.parametrize("last", ["Conv", "MatMul"])
@pytest.mark.parametrize("how", GROUPS)
def test_a_convolution_with_groups_sums_within_heads(how: str, last: str) -> None:
    groups, made, read = GROUPS[how]
    behind = f"""t = Transpose<perm = [0, 1, 3, 2]>(c)  rows = Reshape(t, channels)
      g = Conv<group = {groups}, pads = [1, 1]>(rows, kernel, shift)"""
    ends = {
        "Conv": "pt = Conv(g, pointwise)  p = Transpose<perm = [0, 2, 1]>(pt)  y = Add(p, x)",
        "MatMul": "gt = Transpose<perm = [0, 2, 1]>(g)  p = MatMul(gt, matrix)  y = Add(p, x)",
    }
    weights = f"""int64[3] channels = {{0, 12, -1}}, float[{made}, {read}, 3] kernel, float[{made}] shift,
      float[8, {made}, 1] pointwise, float[{made}, 8] matrix"""
    _exact(attention(f"{behind} {ends[last]}", weights))


CODEBOOKS = 5
PICKED = {
    "by computed positions": "wp = Gather<axis = 0>(stack, rows)",
    "transposed": "wg = Gather<axis = 0>(turned, rows)  wp = Transpose<perm = [0, 2, 1]>(wg)",
}


@pytest.mark.parametrize("how", PICKED)
def test_each_position_has_a_projection_of_its_own(how: str) -> None:
    """The depth decoder of Moshi: weights are picked from a stack, one matrix for each codebook."""
    behind = f"""size = Shape<start = 1, end = 2>(x)  n = Squeeze(size)  rows = Range(first, n, step)  {PICKED[how]}
      {MERGED}  w1 = Unsqueeze(wp, i0)  m1 = Unsqueeze(m, i2)  p1 = MatMul(m1, w1)  p = Squeeze(p1, i2)
      y = Add(p, x)"""
    weights = f"""int64 first = {{0}}, int64 step = {{1}}, float[{CODEBOOKS}, 12, 8] stack,
      float[{CODEBOOKS}, 8, 12] turned"""
    model = attention(behind, weights)
    _exact(model)
    (site,) = inspect(model)
    assert projection_matrix(site.projections[0]).shape == (H * D, CODEBOOKS * WIDTH)


def test_heads_times_batch_stay_known_where_an_input_of_that_length_is_added() -> None:
    """Uni-Mol: the bias of pairs is an input [heads * batch, tokens, tokens]."""
    model = attention(
        f"c = Reshape(cr, back)  {MERGED} {PROJECTED}",
        before=f"""{QUERIES_KEYS_VALUES} b = Shape<start = 0, end = 1>(x)  s = Shape<start = 1, end = 2>(x)
          three = Constant<value_ints = [3]>()  four = Constant<value_ints = [4]>()  bh = Mul(b, three)
          rows = Concat<axis = 0>(bh, s, four)  columns = Concat<axis = 0>(bh, four, s)
          back = Concat<axis = 0>(b, three, s, four)  qr = Reshape(q, rows)  kr = Reshape(k, columns)
          vr = Reshape(v, rows)  dot = MatMul(qr, kr)  scores = Add(dot, bias)  maps = Softmax<axis = -1>(scores)
          cr = MatMul(maps, vr)""",
        inputs="float[folded, s, s] bias",
    )
    bias = np.random.default_rng(6).uniform(-1, 1, (2 * H, 5, 5)).astype(np.float32)
    _exact(model, FEED | {"bias": bias}, gathers=1)


BEHIND = {
    "GatherElements of heads": (1, [2, 0, 1]),
    "GatherElements of features": (3, [3, 2, 1, 0]),
}


@pytest.mark.parametrize("how", BEHIND)
def test_the_operator_that_hides_the_heads_is_named(how: str) -> None:
    axis, order = BEHIND[how]
    shape = (2, H, 5, D)
    places = np.broadcast_to(np.reshape(order, [-1 if at == axis else 1 for at in range(4)]), shape)
    model = attention(
        f"""g = GatherElements<axis = {axis}>(c, places)  ct = Transpose<perm = [0, 2, 1, 3]>(g)
        m = Reshape(ct, together)  {PROJECTED}""",
        f"int64[{', '.join(map(str, shape))}] places",
        sizes="2, 5",
        given={"places": places.astype(np.int64)},
    )
    (miss,) = (sites := inspect(model)).near_misses
    assert not sites and "cannot be followed through GatherElements" in miss.reason.sentence


def test_a_mean_over_heads_whose_scores_are_sums_is_their_projection() -> None:
    """The last layer of a graph attention network: scores add a number of each token to one of each other."""
    model = attention(
        "r = ReduceMean<axes = [1], keepdims = 0>(c)  e = Elu(r)  y = Concat<axis = -1>(e, e)",
        "float[3, 1, 4] left, float[3, 1, 4] right",
        before="""vf = MatMul(x, wv)  v4 = Reshape(vf, apart)  v = Transpose<perm = [0, 2, 1, 3]>(v4)
          ml = Mul(v, left)  mr = Mul(v, right)  l = ReduceSum<keepdims = 1>(ml, lst)
          rs = ReduceSum<keepdims = 1>(mr, lst)  rt = Transpose<perm = [0, 1, 3, 2]>(rs)  s = Add(l, rt)
          a = LeakyRelu(s)  maps = Softmax<axis = -1>(a)  c = MatMul(maps, v)""",
        given={"lst": np.array([-1])},
        opset=17,
    )
    _exact(model)


def test_a_context_that_is_rotated_names_the_rotation() -> None:
    """Invariant point attention turns the points of each head into the frame of each token."""
    model = attention(
        f"""turned = Einsum<equation = "bhsi,bsij->bhsj">(c, frames)  ct = Transpose<perm = [0, 2, 1, 3]>(turned)
        m = Reshape(ct, together)  {PROJECTED}""",
        inputs="float[b, s, 4, 4] frames",
    )
    sites = inspect(model)
    reasons = [miss.reason.sentence for miss in sites.near_misses]
    assert sites.sites or all("which multiplies two activations" in sentence for sentence in reasons)
    for gone in CUTS if sites.sites else ():
        frames = np.random.default_rng(7).uniform(-1, 1, (2, 5, 4, 4)).astype(np.float32)
        check_cut(model, FEED | {"frames": frames}, gone)
