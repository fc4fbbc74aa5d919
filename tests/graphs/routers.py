"""Rows of experts as people write them: soft routers, what reads scores otherwise, and what is no mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import numpy_helper

from tests.graphs.blueprint import STATIC
from tests.graphs.experts import EXPERTS, Experts, tokens
from tests.graphs.net import Cut, Graph, Net
from tests.graphs.table import Found, row
from tests.liveness.masks import Array

MIXTURE = Found(EXPERTS, key="moe.0", of="experts")
AT18 = replace(STATIC, opset=18)
LISTS = {
    "last": [-1], "first": [0], "middle": [1], "two": [2], "three": [3], "one": [1], "six": [6], "by_group": [-1, 2, 3],
    "offsets": [0, 3], "every": [6, 7, 4], "flat_shape": [7, 12], "score_shape": [7, 6, 2],
    "place_shape": [-1, 1], "row_shape": [-1, 4],
}  # fmt: skip


def _text(net: Net, body: str, **shapes: Sequence[int]) -> Any:
    """Nodes from tokens `x` [7, 4] to `out`."""
    net.inputs.append(net.info("x", [7, 4]))
    net.feed["x"] = tokens()
    net.tensors(**shapes)
    net.lists(**LISTS)
    net.constant("base", np.int64(3))
    net.text(body)
    return "out"


# Whoever reads scores, numbers or one expert otherwise is the reason

SHARES, APART = Experts(body="each, a slice"), Experts(body="each, compared")
OTHERWISE: dict[str, tuple[Experts, str, str, str]] = {
    "scores are an output": (
        Experts(), "shown = Identity (r)", "float[7, 6] shown", "shown is a graph output with scores",
    ),
    "scores and the largest integer are an output": (
        Experts(),
        ("big = Constant <value_int = 9223372036854775807> () most = Add (big, none) many = Cast <to = 1> (most)"
        " wide = Sigmoid (r) shown = Add (wide, many)"),
        "float[7, 6] shown",
        "shown is a graph output with scores",
    ),
    "numbers are an output": (
        Experts(), "shown = Identity (i)", "int64[7, 2] shown", "shown is a graph output with numbers",
    ),
    "a mean of all scores": (
        Experts(), "mean = ReduceMean <axes = [1], keepdims = 0> (r)", "float[7] mean", "that each has a part in",
    ),
    "a sum of raw scores": (
        Experts(), "total_r = ReduceSum <keepdims = 0> (r, last)", "float[7] total_r", "that each has a part in",
    ),
    "arithmetic with numbers": (
        Experts(), "next = Add (i, two)", "int64[7, 2] next", "reads the numbers of experts in a way",
    ),
    "the lowest scores": (
        Experts(), "least, which = TopK <axis = -1, largest = 0> (r, two)", "float[7, 2] least", "the lowest scores",
    ),
    "a share is an output": (SHARES, "own = Identity (share3)", "float[7, 1] own", "one of the experts"),
    "a count of tokens": (
        APART, "own = Add (share3, ones) sum_own = Exp (own)", "float[7, 1] sum_own", "one of the experts",
    ),
}  # fmt: skip
for what, (toy, more, output, why) in OTHERWISE.items():
    made = replace(toy, more=f"  {more}\n", outputs=f", {output}")
    row(f"experts, {what}", replace(MIXTURE, reason=("inexpressible", why)), missed=None)(
        lambda net, made=made: Graph(made.model(), {"x": tokens()})
    )

_PICKED = """u = Gather <axis = 0> (up, i) d = Gather <axis = 0> (down, i) row = Unsqueeze (x, middle)
    made = MatMul (row, u) h = Relu (made) back = MatMul (h, d) y = Squeeze (back, middle) out = Add (x, y)"""
STACKED = {"up": (6, 4, 5), "down": (6, 5, 4)}
NOT_CUT = {
    "one expert of each group, numbered with offsets": (
        """r = MatMul (x, router) grouped = Reshape (r, by_group) p = Softmax <axis = -1> (grouped)
        g = ReduceMax <keepdims = 0> (p, last) in_group = ArgMax <axis = 2, keepdims = 0> (p)
        i = Add (in_group, offsets) u = Gather <axis = 0> (up, i) d = Gather <axis = 0> (down, i)
        column = Unsqueeze (x, middle) each = Unsqueeze (column, middle) made = MatMul (each, u) h = Relu (made)
        back = MatMul (h, d) flat = Squeeze (back, two) share = Unsqueeze (g, last) weighed = Mul (flat, share)
        y = ReduceSum <keepdims = 0> (weighed, middle) out = Add (x, y)""",
        "compares the scores of experts of one group",
    ),
    "numbers by arithmetic": (
        "r = MatMul (x, router) best = ArgMax <axis = 1, keepdims = 0> (r) i = Mod (best, base) " + _PICKED,
        "reads the numbers of experts",
    ),
    "a sort, of which the best is used": (
        "r = MatMul (x, router) best, all = TopK <axis = -1> (r, six)"
        " first_one = Slice (all, first, one, middle) i = Squeeze (first_one, middle) " + _PICKED,
        "needs all of its experts: 5 would be left to choose 6 from",
    ),
}
for what, (body, why) in NOT_CUT.items():
    row(f"experts, {what}", replace(MIXTURE, reason=("inexpressible", why)), plans=AT18, missed=None)(
        lambda net, body=body: _text(net, body, router=(4, 6), **STACKED)
    )


# Soft mixtures


def _silent(net: Net, expected: Callable[[Mapping[str, Array], Array, Sequence[int]], Array]) -> Graph:
    """The graph with what it computes of its tensors, of tokens, and of the experts that are left."""
    made = net.drawn(["out"])
    stored = {
        item.name: numpy_helper.to_array(item).astype(np.float64) for item in made.model.graph.initializer
    }

    def computed(feed: Mapping[str, Array], cut: Cut) -> Mapping[str, Array]:
        left = np.delete(np.arange(EXPERTS), list(cut["moe.0"]))
        return {"out": expected(stored, feed["x"].astype(np.float64), left.tolist()).astype(np.float32)}

    return replace(made, expected=computed)


SOFT: list[Cut] = [{"moe.0": [2]}, {"moe.0": [0, 5]}]


@row("experts with slots", MIXTURE, plans=AT18, cuts=SOFT, missed=None)
def _(net: Net) -> Graph:
    """A slot is a mean of all tokens, and each token gets a mean of all slots."""
    body = """score = Einsum <equation = "td,des->tes"> (x, phi) dispatch = Softmax <axis = 0> (score)
        flat = Reshape (score, flat_shape) shares = Softmax <axis = -1> (flat) combine = Reshape (shares, score_shape)
        inputs = Einsum <equation = "tes,td->esd"> (dispatch, x) made = MatMul (inputs, up) h = Relu (made)
        given = MatMul (h, down) y = Einsum <equation = "tes,esd->td"> (combine, given) out = Add (x, y)"""
    _text(net, body, phi=(4, 6, 2), **STACKED)

    def expected(stored: Mapping[str, Array], x: Array, left: Sequence[int]) -> Array:
        score = np.einsum("td,des->tes", x, stored["phi"][:, left])
        dispatch, combine = np.exp(score - score.max(0)), np.exp(score - score.max((1, 2), keepdims=True))
        inputs = np.einsum("tes,td->esd", dispatch / dispatch.sum(0), x)
        given = np.maximum(inputs @ stored["up"][left], 0) @ stored["down"][left]
        return x + np.einsum("tes,esd->td", combine / combine.sum((1, 2), keepdims=True), given)

    return _silent(net, expected)


@row("experts that choose tokens", MIXTURE, plans=AT18, cuts=SOFT)
def _(net: Net) -> Graph:
    """Each expert takes the three tokens with its highest shares; their outputs are added up by token."""
    body = """r = MatMul (x, router) p = Softmax <axis = -1> (r) turned = Transpose <perm = [1, 0]> (p)
        g, i = TopK <axis = -1> (turned, three) inputs = Gather <axis = 0> (x, i) made = MatMul (inputs, up)
        h = Relu (made) back = MatMul (h, down) share = Unsqueeze (g, last) weighed = Mul (back, share)
        places = Reshape (i, place_shape) rows = Reshape (weighed, row_shape) nothing = Sub (x, x)
        y = ScatterND <reduction = "add"> (nothing, places, rows) out = Add (x, y)"""
    _text(net, body, router=(4, 6), **STACKED)

    def expected(stored: Mapping[str, Array], x: Array, left: Sequence[int]) -> Array:
        scores, made = x @ stored["router"][:, left], x.copy()
        shares = np.exp(scores - scores.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        for at, expert in enumerate(left):
            for token in np.argsort(-shares[:, at], kind="stable")[:3]:
                hidden = np.maximum(x[token] @ stored["up"][expert], 0)
                made[token] += shares[token, at] * (hidden @ stored["down"][expert])
        return made

    return _silent(net, expected)


# What owns no matrices is no expert

ROUTER, OWN = {"router": (4, 6)}, {"own": (4, 4)}
BOX = {"corners": (4, 6), "project": (3,), "last_layer": (2, 4), **OWN}
BINS = """p = Softmax <axis = -1> (sides) distances = MatMul (p, project) box = MatMul (distances, last_layer)
    best, unused = TopK <axis = -1> (p, two) statistics = Flatten <axis = 1> (best)
    quality = MatMul (statistics, own) y = Add (quality, box) out = Add (x, y)"""
UNSUMMED = ("no-projection", "MatMul")
NO_MIXTURE: dict[str, tuple[str, Mapping[str, Sequence[int]], Sequence[tuple[str, str]]]] = {
    "neurons of stacked networks": (
        ("row = Unsqueeze (x, first) many = Expand (row, every) made = MatMul (many, up) h = Relu (made)"
         " back = MatMul (h, down) y = ReduceSum <keepdims = 0> (back, first) out = Add (x, y)"),
        STACKED, [],
    ),
    "a gated network": (
        ("made = MatMul (x, up) gate = Sigmoid (made) value = MatMul (x, value_up) h = Mul (gate, value)"
         " y = MatMul (h, down) out = Add (x, y)"),
        {"up": (4, 6), "value_up": (4, 6), "down": (6, 4)}, [],
    ),
    "stored vectors": (
        "r = MatMul (x, router) p = Softmax <axis = -1> (r) y = MatMul (p, slots) out = Add (x, y)",
        {**ROUTER, "slots": (6, 4)}, [],
    ),
    "classes": (
        ("r = MatMul (x, router) p = Softmax <axis = -1> (r) i = ArgMax <axis = 1, keepdims = 0> (p)"
         " out = Identity (x)"),
        ROUTER, [],
    ),
    "tokens that are drawn": (
        "r = MatMul (x, router) i = ArgMax <axis = 1, keepdims = 0> (r) out = Gather (table, i)",
        {**ROUTER, "table": (6, 4)}, [],
    ),
    "a gate for channels": (
        ("image = Unsqueeze (x, last) mean = ReduceMean <keepdims = 0> (image, last) squeezed = MatMul (mean, squeeze)"
         " bent = Relu (squeezed) r = MatMul (bent, excite) g = Sigmoid (r) gate = Unsqueeze (g, last)"
         " gated = Mul (image, gate) made = Conv (gated, kernel) out = Squeeze (made, last)"),
        {"squeeze": (4, 3), "excite": (3, 4), "kernel": (4, 4, 1)}, [("no-projection", "Conv")],
    ),
    "bins of a box": (
        f"r = MatMul (x, corners) sides = Reshape (r, by_group) {BINS}", BOX,
        [UNSUMMED, UNSUMMED, ("coupled", "MatMul")],
    ),
    "bins of a box that a second layer moves": (
        ("r = MatMul (x, corners) h = Tanh (x) moves = MatMul (h, more_corners) sum = Add (r, moves)"
         f" sides = Reshape (sum, by_group) {BINS}"),
        {**BOX, "more_corners": (4, 6)}, [UNSUMMED, UNSUMMED, ("coupled", "MatMul")],
    ),
    "weighed matrices of stored numbers": (
        ('r = MatMul (x, router) p = Softmax <axis = -1> (r) rows = Einsum <equation = "tk,knd->tnd"> (p, slots)'
         " made = MatMul (rows, own) y = ReduceMax <keepdims = 0> (made, middle) out = Add (x, y)"),
        {**ROUTER, "slots": (6, 3, 4), **OWN}, [],
    ),
    "picked matrices of stored numbers": (
        ("r = MatMul (x, router) best, i = TopK <axis = -1> (r, one) slot = Gather <axis = 0> (slots, i)"
         " rows = Squeeze (slot, middle) row = Unsqueeze (x, middle) prompted = Concat <axis = 1> (rows, row)"
         " made = MatMul (prompted, own) y = ReduceMax <keepdims = 0> (made, middle) out = Add (x, y)"),
        {**ROUTER, "slots": (6, 3, 4), **OWN}, [],
    ),
    "codes of a product quantizer": (
        ("r = MatMul (x, router) halves = Reshape (r, by_group) p = Softmax <axis = -1> (halves)"
         " share = Unsqueeze (p, last) weighed = Mul (share, codes) each = ReduceSum <keepdims = 0> (weighed, two)"
         " joined = Flatten <axis = 1> (each) y = MatMul (joined, own) out = Add (x, y)"),
        {**ROUTER, "codes": (1, 2, 3, 4), "own": (8, 4)}, [UNSUMMED],
    ),
    "gates for channels in groups": (
        ("g = MatMul (x, g_own) v = MatMul (x, v_own) groups = Reshape (g, by_group) values = Reshape (v, by_group)"
         " gate = Sigmoid (groups) gated = Mul (values, gate) joined = Flatten <axis = 1> (gated)"
         " y = MatMul (joined, own) out = Add (x, y)"),
        {"g_own": (4, 6), "v_own": (4, 6), "own": (6, 4)}, [],
    ),
    "a branch beside another one without weights": (
        ("r = MatMul (x, router) p = Softmax <axis = -1> (r) g1, g2 = Split <axis = 1, num_outputs = 2> (p)"
         " h = MatMul (x, own) given = Relu (h) first_part = Mul (given, g1) second_part = Mul (x, g2)"
         " y = Add (first_part, second_part) out = Add (x, y)"),
        {"router": (4, 2), **OWN}, [],
    ),
}  # fmt: skip
for what, (body, shapes, hidden) in NO_MIXTURE.items():
    row(f"no mixture: {what}", plans=AT18, hidden=hidden)(
        lambda net, body=body, shapes=shapes: _text(net, body, **shapes)
    )


KEYS = """q1 = MatMul (x, q_own) k1 = MatMul (x, k_own) v1 = MatMul (x, v_own) q2 = Reshape (q1, by_group)
    k2 = Reshape (k1, by_group) v2 = Reshape (v1, by_group)"""
ATTENTIONS = {
    "a bias for each pair": f"""{KEYS} q = Transpose <perm = [1, 0, 2]> (q2) k = Transpose <perm = [1, 2, 0]> (k2)
        v = Transpose <perm = [1, 0, 2]> (v2) products = MatMul (q, k) r = MatMul (x, router)
        turned = Transpose <perm = [1, 0]> (r) pair = Unsqueeze (turned, middle) biased = Add (products, pair)
        p = Softmax <axis = -1> (biased) context = MatMul (p, v) back = Transpose <perm = [1, 0, 2]> (context)""",
    "features, and the sum of all keys": f"""{KEYS} q = Softmax <axis = -1> (q2) k = Exp (k2)
        all_keys = ReduceSum <keepdims = 0> (k, first) total = Einsum <equation = "nhd,hd->nh"> (q, all_keys)
        sums = Einsum <equation = "nhd,nhe->hde"> (k, v2) context = Einsum <equation = "nhd,hde->nhe"> (q, sums)
        column = Unsqueeze (total, last) back = Div (context, column)""",
}
for what, body in ATTENTIONS.items():

    @row(f"no mixture: attention with {what}", Found(2, size=3), plans=AT18, missed=None, hidden=())
    def _(net: Net, body: str = body) -> Any:
        shapes = dict.fromkeys(("q_own", "k_own", "v_own", "g_own"), (4, 6))
        behind = """g1 = MatMul (x, g_own) joined = Flatten <axis = 1> (back) gate = Sigmoid (g1)
            gated = Mul (joined, gate) y = MatMul (gated, own) out = Add (x, y)"""
        made = _text(net, f"{body} {behind}", **shapes, router=(4, 2), own=(6, 4))
        net.mark("back", -2, 2)
        return made
