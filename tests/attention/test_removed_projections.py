"""Projections that vanish with all their heads, by what comes behind them; and sizes that are counted as elements."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxheadprune import prune
from tests.graph_text import model_of

GOLDEN = Path(__file__).parents[1] / "golden"
BIAS = "biased = Add (projected, b_o)"


def before(name: str) -> str:
    """The graph of a golden file."""
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    return text.partition("== before\n")[2].partition("== plan")[0]


def changed(name: str, *changes: tuple[str, str]) -> str:
    """The graph of a golden file with some lines of it written otherwise."""
    text = before(name)
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


TAILS = {
    "a bias with axes of size 1": [("float[4] b_o", "float[1,1,4] b_o")],
    "two biases": [
        ("float[4] b_o", "float[4] b_o, float[1,4] more"),
        (BIAS, "once = Add (projected, b_o)\n   biased = Add (once, more)"),
    ],
    "a bias, then a scale": [
        ("float[4] b_o", "float[4] b_o, float[4] scale"),
        (BIAS, "once = Add (projected, b_o)\n   biased = Mul (once, scale)"),
    ],
    "a scale, then a bias": [
        ("float[4] b_o", "float[4] b_o, float[1,1,4] scale"),
        (BIAS, "once = Mul (projected, scale)\n   biased = Add (once, b_o)"),
    ],
    "a cast to what it is": [
        (BIAS, "once = Cast <to = 1> (projected)\n   biased = Add (once, b_o)"),
    ],
    "a cast behind the bias": [
        (BIAS, "once = Add (projected, b_o)\n   biased = Cast <to = 1> (once)"),
    ],
    "tokens that are cut off": [
        ("float[4] b_o", "float[4] b_o, int64[1] zero = {0}, int64[1] many = {99}, int64[1] one = {1}"),
        (BIAS, "once = Add (projected, b_o)\n   biased = Slice (once, zero, many, one)"),
    ],
}


@pytest.mark.parametrize("what", TAILS)
def test_a_whole_site_goes(what: str) -> None:
    model = model_of(changed("whole_site", *TAILS[what]))
    result = prune(model, heads="0:0-2", provider="cpu")
    assert result.validation is not None and result.validation.verdict == "passed"
    assert not result.plan.edge_gathers
    left = [node.op_type for node in result.model.graph.node]
    assert left.count("Softmax") == 1


def test_elements_that_are_counted_stay_as_many() -> None:
    """`Size` of the keys: the number that scores are scaled with stays that of the original."""
    scaled = "number = Size (k_heads)\n   real = Cast <to = 1> (number)\n   scores = Div (raw, real)"
    lines = f"raw = MatMul (q_heads, k_heads)\n   {scaled}"
    model = model_of(changed("plain", ("scores = MatMul (q_heads, k_heads)", lines)))
    result = prune(model, heads="0:1", provider="cpu")
    assert result.validation is not None and result.validation.verdict == "passed"
    assert not result.plan.edge_gathers
