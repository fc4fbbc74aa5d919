"""Mixtures of experts as ONNX text, one for each form that exporters write, and what they compute, in float64.

Tokens `x` are [tokens, HIDDEN]; all forms have the same experts, `relu(x up[e] + up_bias[e]) down[e] + down_bias[e]`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, numpy_helper, parser

Array = npt.NDArray[Any]
EXPERTS, CHOSEN, HIDDEN, WIDTH, TOKENS, GROUPS = 6, 2, 4, 5, 7, 2
ROUTINGS = {
    "softmax": """
  p = Softmax <axis = -1> (r)
  v, i = TopK <axis = -1> (p, two)
  total = ReduceSum <keepdims = 1> (v, last)
  w = Div (v, total)
""",
    "chosen softmax": """
  v, i = TopK <axis = -1> (r, two)
  w = Softmax <axis = -1> (v)
""",
    "one more": """
  more_v, more_i = TopK <axis = -1> (r, three)
  v = Slice (more_v, first, two, middle)
  i = Slice (more_i, first, two, middle)
  w = Softmax <axis = -1> (v)
""",
    "best, then second": """
  p = Softmax <axis = -1> (r)
  i1 = ArgMax <axis = 1, keepdims = 0> (r)
  hot1 = OneHot <axis = -1> (i1, depth, off_on)
  is_best = Cast <to = 9> (hot1)
  others = Where (is_best, low, r)
  i2 = ArgMax <axis = 1, keepdims = 0> (others)
  hot2 = OneHot <axis = -1> (i2, depth, off_on)
  first_share = Mul (p, hot1)
  second_share = Mul (p, hot2)
  shares = Add (first_share, second_share)
  total = ReduceSum <keepdims = 1> (shares, last)
  weights = Div (shares, total)
""",
    "sigmoid in groups": """
  p = Sigmoid (r)
  moved = Add (p, correction)
  grouped = Reshape (moved, by_group)
  best, unused = TopK <axis = -1> (grouped, two)
  group_scores = ReduceSum <keepdims = 0> (best, last)
  g, group = TopK <axis = -1> (group_scores, one)
  nothing = Sub (group_scores, group_scores)
  there = Add (g, ones)
  hit = Div (there, there)
  mask = ScatterElements <axis = 1> (nothing, group, hit)
  wide = Unsqueeze (mask, last)
  each = Expand (wide, by_group_shape)
  flat = Reshape (each, by_expert)
  open = Cast <to = 9> (flat)
  among = Where (open, moved, low)
  v, i = TopK <axis = -1> (among, two)
  w = GatherElements <axis = 1> (p, i)
""",
}
_BOUND = "  bound = Slice (best, one, two, middle)\n"
BY_HAND_ROUTINGS = {
    "scores above a bound": "  best, unused = TopK <axis = -1> (r, two)\n"
    + _BOUND
    + """
  is_below = Less (r, bound)
  among = Where (is_below, minus, r)
  weights = Softmax <axis = -1> (among)
""",
    "weights above a bound": "  p = Softmax <axis = -1> (r)\n  best, unused = TopK <axis = -1> (p, two)\n"
    + _BOUND
    + """
  is_above = GreaterOrEqual (p, bound)
  among = Where (is_above, p, zero)
  total = ReduceSum <keepdims = 1> (among, last)
  weights = Div (among, total)
""",
    "all, softmax": "  weights = Softmax <axis = -1> (r)\n",
    "all, sigmoid": "  weights = Sigmoid (r)\n",
    "all, relu": "  weights = Relu (r)\n",
}
"""Routings that no exporter of a library writes; those of all experts have `weights` alone."""
ROUTINGS |= BY_HAND_ROUTINGS
"""From scores `r` [tokens, EXPERTS] to numbers `i` and weights `w` of the chosen, [tokens, CHOSEN].

Noisy gates choose one more than they use. GShard and NLLB-MoE choose the best, then the second, as `weights` of all.
"""
_SUMMED = """
  share = Unsqueeze (w, last)
  weighed = Mul (given, share)
  y = ReduceSum <keepdims = 0> (weighed, middle)
"""
_DENSE = """
  row = Unsqueeze (x, first)
  many = Expand (row, every)
  made = MatMul (many, up)
  bias = Unsqueeze (up_bias, middle)
  biased = Add (made, bias)
  h = Relu (biased)
  back = MatMul (h, down)
  bias2 = Unsqueeze (down_bias, middle)
  given = Add (back, bias2)
  turned = Transpose <perm = [1, 0]> (weights)
  share = Unsqueeze (turned, last)
  weighed = Mul (given, share)
  y = ReduceSum <keepdims = 0> (weighed, first)
"""


def _picked(pick: str) -> str:
    """The chosen experts' weights, by a Gather or a GatherND."""
    row, numbers = ("Gather <axis = 0>", "i") if pick == "Gather" else ("GatherND", "at")
    names = {"up": "u", "up_bias": "ub", "down": "d", "down_bias": "db"}
    picks = "".join(f"  {name} = {row} ({stored}, {numbers})\n" for stored, name in names.items())
    return f"""
  at = Unsqueeze (i, last)
{picks}
  one_row = Unsqueeze (x, row_axes)
  made = MatMul (one_row, u)
  m = Squeeze (made, inner)
  biased = Add (m, ub)
  h = Relu (biased)
  hidden = Unsqueeze (h, inner)
  back = MatMul (hidden, d)
  b = Squeeze (back, inner)
  given = Add (b, db)
{_SUMMED}"""


def _each(share: str, network: str) -> str:
    """A network of its own for each expert, one after the other."""
    made = []
    for number in range(EXPERTS):
        before, after = f"sum{number}", "y" if number + 1 == EXPERTS else f"sum{number + 1}"
        lines = share + network
        made.append(lines.replace("#", str(number)).replace("<before>", before).replace("<after>", after))
    return "  sum0 = ConstantOfShape (token_shape)\n" + "".join(made)


_OWN = """
  m# = MatMul (seen#, up#)
  b# = Add (m#, up_bias#)
  h# = Relu (b#)
  o# = MatMul (h#, down#)
  given# = Add (o#, down_bias#)
"""
_ALL_TOKENS = (
    "  seen# = Identity (x)\n" + _OWN + "  part# = Mul (given#, share#)\n  <after> = Add (<before>, part#)\n"
)
_OWN_TOKENS = (
    """
  found# = NonZero (is#)
  places# = Transpose <perm = [1, 0]> (found#)
  rows#, columns# = Split <axis = 1> (places#, halves)
  seen# = GatherND (x, rows#)
"""
    + _OWN
    + """
  w# = GatherND (w, places#)
  share# = Unsqueeze (w#, last)
  part# = Mul (given#, share#)
"""
)
_WRITTEN = '  <after> = ScatterND <reduction = "add"> (<before>, rows#, part#)\n'
_WRITTEN_APART = """
  none# = ConstantOfShape (token_shape)
  own# = ScatterND <reduction = "add"> (none#, rows#, part#)
  <after> = Add (<before>, own#)
"""
_SPREAD = "  nothing_yet = ConstantOfShape (score_shape)\n  weights = ScatterElements <axis = 1> (nothing_yet, i, w)\n"
_SHARES = ", ".join(f"share{number}" for number in range(EXPERTS))
_IS = "  number# = Constant <value_int = #> ()\n  is# = Equal (i, number#)\n"

BODIES = {
    "each, a slice": _SPREAD
    + _each(
        "  from# = Constant <value_ints = [#]> ()\n  to# = Add (from#, one)\n"
        "  share# = Slice (weights, from#, to#, middle)\n",
        _ALL_TOKENS,
    ),
    "each, split": _SPREAD
    + f"  {_SHARES} = Split <axis = 1, num_outputs = {EXPERTS}> (weights)\n"
    + _each("", _ALL_TOKENS),
    "each, compared": "  nobody = ConstantOfShape (choice_shape)\n"
    + _each(
        _IS + "  own# = Where (is#, w, nobody)\n  share# = ReduceSum <keepdims = 1> (own#, last)\n",
        _ALL_TOKENS,
    ),
    "each, its tokens": _each(_IS, _OWN_TOKENS + _WRITTEN),
    "each, its tokens apart": _each(_IS, _OWN_TOKENS + _WRITTEN_APART),
    "each, one-hot": "  hot = OneHot <axis = -1> (i, more, off_on)\n  turned = Transpose <perm = [2, 0, 1]> (hot)\n"
    + _each(
        "  number# = Constant <value_int = #> ()\n  is# = Gather (turned, number#)\n", _OWN_TOKENS + _WRITTEN
    ),
    "picked": _picked("Gather"),
    "picked rows": _picked("GatherND"),
    "weighed": _DENSE,
    "scattered": "  nothing_yet = ConstantOfShape (score_shape)\n"
    "  weights = ScatterElements <axis = 1> (nothing_yet, i, w)\n" + _DENSE,
    "one-hot": "  hot = OneHot <axis = -1> (i, depth, off_on)\n  share_of = Unsqueeze (w, last)\n"
    "  spread = Mul (hot, share_of)\n  weights = ReduceSum <keepdims = 0> (spread, middle)\n" + _DENSE,
    "compared": "  number = Unsqueeze (i, last)\n  same = Equal (number, numbers)\n  hot = Cast <to = 1> (same)\n"
    "  share_of = Unsqueeze (w, last)\n  spread = Mul (hot, share_of)\n"
    "  weights = ReduceSum <keepdims = 0> (spread, middle)\n" + _DENSE,
}
"""From numbers and weights to `y`."""
_ANY = (
    _IS
    + """
  hit# = Cast <to = 7> (is#)
  hits# = ReduceSum <keepdims = 0> (hit#, last)
  any# = Greater (hits#, none)
  own# = Where (is#, w, nobody)
  share# = ReduceSum <keepdims = 1> (own#, last)
"""
)
_NOBODY = "  nobody = ConstantOfShape (choice_shape)\n"
_COLUMN = "  column# = Unsqueeze (any#, last)\n"
_ADDED = "  <after> = Add (<before>, part#)\n"
_SEEN = "  seen# = Identity (x)\n" + _OWN + "  weighed# = Mul (given#, share#)\n"
_SLICED = """
  from# = Constant <value_ints = [#]> ()
  to# = Add (from#, one)
  share# = Slice (weights, from#, to#, middle)
"""
_SLOTTED = """
  used = Greater (weights, zero)
  sent = Cast <to = 1> (used)
  counts = CumSum (sent, axis0)
  counted = Mul (counts, sent)
  place = Sub (counted, ones)
  is_sent = GreaterOrEqual (place, zero)
  fits = Less (place, capacity)
  is_held = And (is_sent, fits)
  held = Cast <to = 1> (is_held)
  inside = Clip (place, zero, capacity)
  at = Cast <to = 7> (inside)
  slots = OneHot <axis = -1> (at, slot_count, off_on)
  held_column = Unsqueeze (held, last)
  dispatch = Mul (slots, held_column)
  weight_column = Unsqueeze (weights, last)
  combine = Mul (dispatch, weight_column)
  inputs = Einsum <equation = "tec,td->ecd"> (dispatch, x)
"""


def _stacked(inputs: str) -> str:
    """All experts, from an input for each of them."""
    return f"""
  made = MatMul ({inputs}, up)
  bias = Unsqueeze (up_bias, middle)
  biased = Add (made, bias)
  h = Relu (biased)
  back = MatMul (h, down)
  bias2 = Unsqueeze (down_bias, middle)
  given = Add (back, bias2)
"""


_EACH_GIVES = "".join(
    ("  seen# = Identity (x)\n" + _OWN).replace("#", str(number)) for number in range(EXPERTS)
)


def _joined(name: str) -> str:
    """What experts give, side by side."""
    columns = "".join(f"  one{n} = Unsqueeze ({name}{n}, middle)\n" for n in range(EXPERTS))
    return columns + f"  side = Concat <axis = 1> ({', '.join(f'one{n}' for n in range(EXPERTS))})\n"


BY_HAND_BODIES = {
    "each, any of its tokens": _NOBODY
    + _each(
        _ANY,
        """
  found# = NonZero (any#)
  at# = Squeeze (found#, first)
  seen# = Gather <axis = 0> (x, at#)
"""
        + _OWN
        + """
  picked# = Gather <axis = 0> (share#, at#)
  part# = Mul (given#, picked#)
  rows# = Transpose <perm = [1, 0]> (found#)
"""
        + _WRITTEN,
    ),
    "each, where": _NOBODY
    + _each(_ANY, _SEEN + _COLUMN + "  part# = Where (column#, weighed#, zero)\n" + _ADDED),
    "each, where not": _NOBODY
    + _each(
        _ANY,
        _SEEN + _COLUMN + "  not# = Not (column#)\n  part# = Where (not#, zero, weighed#)\n" + _ADDED,
    ),
    "each, masked": _NOBODY
    + _each(
        _ANY,
        _COLUMN
        + "  mask# = Cast <to = 1> (column#)\n  seen# = Mul (x, mask#)\n"
        + _OWN
        + "  shown# = Mul (given#, mask#)\n  part# = Mul (shown#, share#)\n"
        + _ADDED,
    ),
    "each, from zero": _SPREAD
    + _each(_SLICED, _SEEN + "  part# = Identity (weighed#)\n" + _ADDED).replace(
        "(sum0, part0)", "(zero, part0)"
    ),
    "side by side": _SPREAD
    + _EACH_GIVES
    + _joined("given")
    + "  share = Unsqueeze (weights, last)\n  weighed = Mul (side, share)\n"
    "  y = ReduceSum <keepdims = 0> (weighed, middle)\n",
    "weighed side by side": _SPREAD
    + "".join((_SLICED + _SEEN).replace("#", str(number)) for number in range(EXPERTS))
    + _joined("weighed")
    + "  y = ReduceSum <keepdims = 0> (side, middle)\n",
    "one wide layer": _SPREAD
    + """
  column = Unsqueeze (weights, last)
  repeated = Tile (column, repeats)
  scale = Reshape (repeated, wide_shape)
  made = MatMul (x, wide_up)
  biased = Add (made, wide_bias)
  h = Relu (biased)
  scaled = Mul (h, scale)
  back = MatMul (scaled, wide_down)
  back_bias = MatMul (weights, down_bias)
  y = Add (back, back_bias)
""",
    "dispatched": _SPREAD
    + """
  used = Greater (weights, zero)
  sent = Cast <to = 1> (used)
  inputs = Einsum <equation = "te,td->etd"> (sent, x)
"""
    + _stacked("inputs")
    + '  y = Einsum <equation = "te,etd->td"> (weights, given)\n',
    "in slots": _SPREAD
    + _SLOTTED
    + _stacked("inputs")
    + '  y = Einsum <equation = "tec,ecd->td"> (combine, given)\n',
}
"""Bodies that no exporter of a library writes."""
BODIES |= BY_HAND_BODIES


@dataclass(frozen=True)
class Experts:
    """One mixture behind a residual stream.

    Attributes:
        routing: how experts are chosen.
        body: how they are applied.
        more: nodes that are added.
        outputs: declared beside `out`.
        last: the nodes that compute `out`.
    """

    routing: str = "softmax"
    body: str = "picked"
    more: str = ""
    outputs: str = ""
    last: str = "  out = Add (x, y)\n"

    def tensors(self) -> dict[str, Array]:
        """Stored tensors by name, random but always the same."""
        random = np.random.default_rng(0)

        def normal(*shape: int) -> Array:
            return random.standard_normal(shape).astype(np.float32)

        return {
            "router": normal(HIDDEN, EXPERTS),
            "correction": normal(EXPERTS),
            "up": normal(EXPERTS, HIDDEN, WIDTH),
            "up_bias": normal(EXPERTS, WIDTH),
            "down": normal(EXPERTS, WIDTH, HIDDEN),
            "down_bias": normal(EXPERTS, HIDDEN),
            "shared_up": normal(HIDDEN, WIDTH),
            "shared_down": normal(WIDTH, HIDDEN),
            "shared_gate": normal(HIDDEN, 1),
        }

    def _wide(self) -> dict[str, Array]:
        """The experts as one wide layer."""
        stored = self.tensors()
        return {
            "wide_up": stored["up"].transpose(1, 0, 2).reshape(HIDDEN, -1),
            "wide_bias": stored["up_bias"].reshape(-1),
            "wide_down": stored["down"].reshape(-1, HIDDEN),
        }

    def model(self) -> ModelProto:
        """The model: x + mixture(x)."""
        model = parser.parse_model(f"""
<ir_version: 9, opset_import: ["" : 18]>
mixture (float[{TOKENS}, {HIDDEN}] x) => (float[{TOKENS}, {HIDDEN}] out{self.outputs})
<
  int64[1] one = {{1}}, int64[1] two = {{{CHOSEN}}}, int64[1] three = {{{CHOSEN + 1}}},
  int64[1] first = {{0}}, int64[1] middle = {{1}},
  int64[1] inner = {{2}}, int64[1] last = {{-1}}, int64[2] row_axes = {{1, 2}}, int64 depth = {{{EXPERTS}}},
  float[2] off_on = {{0, 1}}, int64[{EXPERTS}] numbers = {{{",".join(map(str, range(EXPERTS)))}}},
  int64[3] by_group = {{-1, {GROUPS}, {EXPERTS // GROUPS}}}, int64[2] by_expert = {{-1, {EXPERTS}}},
  int64[3] by_group_shape = {{{TOKENS}, {GROUPS}, {EXPERTS // GROUPS}}}, float low = {{-9}}, float ones = {{1}},
  int64[2] halves = {{1, 1}}, int64 more = {{{EXPERTS + 1}}}, int64[2] token_shape = {{{TOKENS}, {HIDDEN}}},
  int64[2] choice_shape = {{{TOKENS}, {CHOSEN}}}, float minus = {{-1e30}},
  float zero = {{0}}, int64 none = {{0}}, int64 axis0 = {{0}}, float capacity = {{{TOKENS}}},
  int64 slot_count = {{{TOKENS + 1}}}, int64[3] repeats = {{1, 1, {WIDTH}}},
  int64[2] wide_shape = {{{TOKENS}, {EXPERTS * WIDTH}}},
  int64[3] every = {{{EXPERTS}, {TOKENS}, {HIDDEN}}}, int64[2] score_shape = {{{TOKENS}, {EXPERTS}}}
>
{{
  r = MatMul (x, router)
{ROUTINGS[self.routing]}{self._body}{self.more}{self.last}}}""")
        stored = self.tensors()
        each = ("up", "up_bias", "down", "down_bias")
        stored |= {f"{name}{number}": stored[name][number] for name in each for number in range(EXPERTS)}
        stored |= self._wide()
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
        used = {name for node in model.graph.node for name in node.input}
        for tensor in [item for item in model.graph.initializer if item.name not in used]:
            model.graph.initializer.remove(tensor)
        for number, node in enumerate(model.graph.node):
            node.name = f"mixture/{node.op_type}_{number}"
        return model

    @property
    def _body(self) -> str:
        """The body; weights of all experts need not be spread."""
        body = BODIES[self.body]
        return body.removeprefix(_SPREAD) if self.routing in BY_HAND_ROUTINGS else body

    def expected(self, x: Array, gone: Collection[int] = ()) -> Array:
        """What the model computes if the router never chooses some experts.

        Args:
            x: tokens.
            gone: experts whose score is minus infinity before the choice.
        """
        stored = {name: array.astype(np.float64) for name, array in self.tensors().items()}
        out = x.astype(np.float64)
        for token, scores in enumerate(out @ stored["router"]):
            scores[list(gone)] = -np.inf
            chosen, weights = self._choice(scores, stored["correction"], gone)
            for expert, weight in zip(chosen, weights, strict=True):
                hidden = np.maximum(x[token] @ stored["up"][expert] + stored["up_bias"][expert], 0)
                out[token] += weight * (hidden @ stored["down"][expert] + stored["down_bias"][expert])
        return out

    def _choice(self, scores: Array, correction: Array, gone: Collection[int]) -> tuple[Array, Array]:
        if self.routing.startswith("all, "):
            shares = np.maximum(scores, 0) if "relu" in self.routing else 1 / (1 + np.exp(-scores))
            if "softmax" in self.routing:
                shares = np.exp(scores - scores.max())
                shares /= shares.sum()
            return np.arange(EXPERTS), shares
        if self.routing != "sigmoid in groups":
            chosen = np.argsort(-scores, kind="stable")[:CHOSEN]
            shares = np.exp(scores[chosen] - scores[chosen].max())
            return chosen, shares / shares.sum()
        probabilities = 1 / (1 + np.exp(-scores))
        moved = probabilities + correction
        moved[list(gone)] = -np.inf
        grouped = moved.reshape(GROUPS, -1)
        best = np.argmax(np.sort(grouped, axis=1)[:, -CHOSEN:].sum(axis=1))
        among = np.where(np.arange(EXPERTS) // (EXPERTS // GROUPS) == best, moved, -9)
        among[list(gone)] = -np.inf
        chosen = np.argsort(-among, kind="stable")[:CHOSEN]
        return chosen, probabilities[chosen]


def tokens(seed: int = 1) -> Array:
    """Some tokens."""
    return np.random.default_rng(seed).standard_normal((TOKENS, HIDDEN)).astype(np.float32)


TOYS = {body: Experts(body=body) for body in BODIES if body not in {"weighed", *BY_HAND_BODIES}}
TOYS["best, then second"] = Experts("best, then second", "weighed")
TOYS |= {
    f"{routing}, {body}": Experts(routing, body)
    for routing in ("chosen softmax", "one more", "sigmoid in groups")
    for body in ("picked", "scattered")
}
BY_HAND = {body: Experts(body=body) for body in BY_HAND_BODIES}
BY_HAND |= {f"{routing}, weighed": Experts(routing, "weighed") for routing in BY_HAND_ROUTINGS}
BY_HAND |= {
    f"{routing}, {body}": Experts(routing, body)
    for routing in ("all, softmax", "all, sigmoid", "all, relu")
    for body in ("each, from zero", "side by side", "weighed side by side", "one wide layer", "dispatched")
}
"""Mixtures as people write them."""
