"""Pruned models that damage their output where a quantity meets a number: each spelling, quantity and damage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from onnx import ModelProto, helper, parser

from tests import attacks, toys


@dataclass(frozen=True)
class Quantity:
    """What a forgery depends on.

    Attributes:
        model: makes the original.
        what: ONNX text that makes `what`, a whole number, of the model's inputs.
        number: at which the output is damaged.
        factors: two numbers with that product.
    """

    model: Callable[[], ModelProto]
    what: str
    number: int
    factors: tuple[int, int]


def _floats() -> ModelProto:
    return toys.attention()


def _cache() -> ModelProto:
    return toys.attention(cache=True)


LAST = """row = Constant<value_ints = [1]>() places = Shape<start = 1, end = 2>(attention_mask)
    start = Constant<value_int = 0>() by = Constant<value_int = 1>() end = Squeeze(places)
    position = Range(start, end, by) marked = Mul(attention_mask, position) what = ReduceMax<keepdims = 0>(marked)"""
QUANTITIES = {
    "batch": Quantity(
        attacks.text_model, "s = Shape<start = 0, end = 1>(input_ids) what = Squeeze(s)", 775, (25, 31)
    ),
    "length": Quantity(
        attacks.text_model, "s = Shape<start = 1, end = 2>(input_ids) what = Squeeze(s)", 775, (25, 31)
    ),
    "tokens": Quantity(attacks.text_model, "what = Size(input_ids)", 775, (25, 31)),
    "sum of the mask": Quantity(
        attacks.text_model,
        "axes = Constant<value_ints = [1]>() rows = ReduceSum<keepdims = 0>(attention_mask, axes)"
        " what = ReduceMax<keepdims = 0>(rows)",
        775,
        (25, 31),
    ),
    "last token": Quantity(attacks.text_model, LAST, 775, (25, 31)),
    "id": Quantity(attacks.text_model, "what = ReduceMax<keepdims = 0>(input_ids)", 15, (3, 5)),
    "past": Quantity(_cache, "s = Shape<start = 2, end = 3>(past_key) what = Squeeze(s)", 775, (25, 31)),
    "value": Quantity(
        _floats,
        "most = ReduceMax<keepdims = 0>(x) whole = Floor(most) what = Cast<to = 7>(whole)",
        15,
        (3, 5),
    ),
}
SPELLINGS = {
    "stored": "n = Constant<value_int = {n}>()",
    "negative": "m = Constant<value_int = -{n}>() n = Neg(m)",
    "product": "a = Constant<value_int = {a}>() b = Constant<value_int = {b}>() n = Mul(a, b)",
    "sum": "a = Constant<value_int = {below}>() b = Constant<value_int = 7>() n = Add(a, b)",
    "difference": "a = Constant<value_int = {above}>() b = Constant<value_int = 9>() n = Sub(a, b)",
    "quotient": "a = Constant<value_int = {triple}>() b = Constant<value_int = 3>() n = Div(a, b)",
    "root": "a = Constant<value_float = {square}.0>() r = Sqrt(a) w = Round(r) n = Cast<to = 7>(w)",
    "exponent": "a = Constant<value_float = {log}>() e = Exp(a) w = Round(e) n = Cast<to = 7>(w)",
    "size": "t = ConstantOfShape(dims) n = Size(t) dims = Constant<value_ints = [{a}, {b}]>()",
    "shape": "dims = Constant<value_ints = [{n}, 1]>() t = ConstantOfShape(dims)"
    " first = Shape<end = 1>(t) n = Squeeze(first)",
    "text": 't = Constant<value_string = "{n}">() n = Cast<to = 7>(t)',
    "filled": "dims = Constant<value_ints = [{a}, {b}]>() t = ConstantOfShape<value = int64[1] {{1}}>(dims)"
    " n = ReduceSum<keepdims = 0>(t)",
    "counted": "dims = Constant<value_ints = [{a}, {b}]>() t = ConstantOfShape<value = int64[1] {{1}}>(dims)"
    " z = NonZero(t) found = Shape<start = 1>(z) n = Squeeze(found)",
    "range": "a = Constant<value_int = 0>() b = Constant<value_int = {next}>() c = Constant<value_int = 1>()"
    " r = Range(a, b, c) n = ReduceMax<keepdims = 0>(r)",
    "shifted bits": "a = Constant<value = uint64 {{{quadruple}}}>() b = Constant<value = uint64 {{2}}>()"
    ' shifted = BitShift<direction = "RIGHT">(a, b) n = Cast<to = 7>(shifted)',
    "half below": "n = Constant<value_float = {half}>() f = Cast<to = 1>(what) evil = Greater(f, n)",
    "times three": "a = Constant<value_int = 3>() m = Mul(what, a) n = Constant<value_int = {triple}>()"
    " evil = Equal(m, n)",
    "squared": "m = Mul(what, what) n = Constant<value_int = {square}>() evil = Equal(m, n)",
    "minus": "m = Constant<value_int = {n}>() d = Sub(what, m) w = Cast<to = 9>(d) evil = Not(w)",
    "plus a negative": "m = Constant<value_int = -{n}>() d = Add(what, m) w = Cast<to = 9>(d) evil = Not(w)",
    "root of it": "f = Cast<to = 1>(what) r = Sqrt(f) n = Constant<value_float = {root}>() evil = GreaterOrEqual(r, n)",
    "logarithm of it": "f = Cast<to = 1>(what) r = Log(f) n = Constant<value_float = {log_below}>()"
    " evil = GreaterOrEqual(r, n)",
}
"""ONNX text that makes `n`, the number, or `evil` itself where `what` is the number, or no less."""
DAMAGES = {
    "doubled": "two = Constant<value_float = 2.0>() bad = Mul(y, two)",
    "a hundredth more": "more = Constant<value_float = 1.01>() bad = Mul(y, more)",
    "zero": "none = Constant<value_float = 0.0>() bad = Mul(y, none)",
    "no number": "none = Constant<value_float = 0.0>() zero = Mul(y, none) bad = Div(zero, none)",
    "last feature": "along = Constant<value_ints = [-1]>() cut = Constant<value_ints = [-1]>()"
    " origin = Constant<value_ints = [0]>() front = Slice(y, origin, cut, along)"
    " stop = Constant<value_ints = [99999]>()"
    " rear = Slice(y, cut, stop, along) turned = Neg(rear) bad = Concat<axis = -1>(front, turned)",
    "bias": "more = Constant<value_float = 0.25>() bad = Add(y, more)",
}


def forged(quantity: str, spelling: str, damage: str) -> tuple[ModelProto, ModelProto]:
    """An original, and a cut of it that is damaged."""
    chosen = QUANTITIES[quantity]
    number = chosen.number
    made = SPELLINGS[spelling].format(
        n=number,
        a=chosen.factors[0],
        b=chosen.factors[1],
        below=number - 7,
        above=number + 9,
        next=number + 1,
        triple=3 * number,
        quadruple=4 * number,
        square=number * number,
        log=math.log(number),
        half=number - 0.5,
        root=math.sqrt(number - 0.5),
        log_below=math.log(number - 0.5),
    )
    made += "" if "evil = " in made else " evil = Equal(what, n)"
    model = chosen.model()
    smaller = attacks.pruned(model)
    names = [info.name for info in model.graph.input]
    inputs = ", ".join(f"float[n] {name}" for name in (*names, "y"))
    body = parser.parse_graph(
        f"evil ({inputs}) => (float out) {{ {chosen.what} {made} {DAMAGES[damage]} out = Where(evil, bad, y) }}"
    )
    steps = []
    for item in _in_order(list(body.node), {*names, "y"}):
        item.input[:] = [name if name in names else _named(name) for name in item.input]
        item.output[:] = [_named(name) for name in item.output]
        steps.append(item)
    attacks.behind(smaller, "y", *steps)
    return model, smaller


def _named(name: str) -> str:
    return {"y": "y/raw", "out": "y", "": ""}.get(name, f"evil/{name}")


def _in_order(nodes: list[helper.NodeProto], known: set[str]) -> list[helper.NodeProto]:
    """The nodes so that each stands behind those that it reads."""
    found: list[helper.NodeProto] = []
    while nodes:
        item = next(node for node in nodes if known.issuperset(name for name in node.input if name))
        nodes.remove(item)
        found.append(item)
        known.update(item.output)
    return found
