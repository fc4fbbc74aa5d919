"""What joins two linear layers makes a block of some kind, a near miss, or nothing; what an attention owns is none."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.attention.sites.site import Site
from tests.attention.block_spellings import text_model
from tests.conftest import Command

WEIGHTS = """
  float[8, 12] up, float[12] b, float[12, 8] down, float[8, 12] gate,
  float[12, 8, 1] up_conv, float[8, 12, 1] down_conv, float[12, 8, 3] wide, float[12, 1, 3] depth,
  float[8, 2] to_scale, float[2, 3] to_scales, int64[1] last = {-1}, float two = {2.0},
  int64[1] narrow = {8}, int64[1] broad = {12}
"""


def _model(body: str, ends: str = "y", weights: str = WEIGHTS) -> ModelProto:
    return text_model(body, ends, weights)


def _blocks(model: ModelProto) -> tuple[Site, ...]:
    return inspect(model).neurons


UP = "u = MatMul (x, up) a = Add (u, b)"
KINDS = {
    "a residual branch": (f"{UP} h = Relu (a) d = MatMul (h, down) y = Add (d, x)", "feed-forward"),
    "after a normalisation, and scaled": (
        (
            "s = ReduceMean <axes = [-1]> (x) n = Sub (x, s) u = MatMul (n, up) h = Relu (u) d = MatMul (h, down)"
            " t = Mul (d, two) y = Add (t, x)"
        ),
        "feed-forward",
    ),
    "views whose shapes come from one Shape": (
        (
            "z = Shape <end = 2> (x) i = Concat <axis = 0> (z, narrow) v = Reshape (x, i) u = MatMul (v, up)"
            " j = Concat <axis = 0> (z, broad) a = Reshape (u, j) c = Mul (a, a) g = Add (a, c) h = Tanh (g)"
            " d = MatMul (h, down) y = Add (d, x)"
        ),
        "feed-forward",
    ),
    "a gate": (
        "u = MatMul (x, up) g = MatMul (x, gate) h = Mul (u, g) d = MatMul (h, down) y = Add (x, d)",
        "feed-forward",
    ),
    "beside another branch": (
        (
            f"{UP} h = Relu (a) d = MatMul (h, down) g = MatMul (x, gate) k = Tanh (g) e = MatMul (k,"
            f" down) f = Add (d, e)"
            " y = Add (f, x)"
        ),
        "feed-forward",
    ),
    "behind another branch that reads the same": (
        (
            f"g = MatMul (x, gate) k = Tanh (g) e = MatMul (k, down) f = Add (x, e) {UP} h = Relu (a)"
            " d = MatMul (h, down) y = Add (f, d)"
        ),
        "feed-forward",
    ),
    "no residual": (f"{UP} h = Tanh (a) y = MatMul (h, down)", "mlp"),
    "numbers that scale the stream": (
        (
            "u = MatMul (x, to_scale) h = Tanh (u) c = MatMul (h, to_scales) r = ReduceSum (c, last)"
            " m = Mul (x, r) y = Add (m, x)"
        ),
        "mlp",
    ),
    "no activation": ("u = MatMul (x, up) d = MatMul (u, down) y = Add (d, x)", "low-rank"),
    "added to a linear layer": (
        "w = MatMul (x, gate) u = MatMul (x, up) d = MatMul (u, down) v = MatMul (w, down) y = Add (v, d)",
        "low-rank",
    ),
    "positions apart": (
        (
            "t = Transpose <perm = [0, 2, 1]> (x) u = Conv (t, up_conv) h = Relu (u) d = Conv (h,"
            " down_conv) y = Add (d, t)"
        ),
        "feed-forward",
    ),
    "a window": (
        (
            "t = Transpose <perm = [0, 2, 1]> (x) u = Conv <pads = [1, 1]> (t, wide) h = Relu (u) d ="
            " Conv (h, down_conv)"
            " y = Add (d, t)"
        ),
        "convolution",
    ),
    "a window between": (
        (
            "t = Transpose <perm = [0, 2, 1]> (x) u = Conv (t, up_conv) w = Conv <pads = [1, 1], group = 12> (u, depth)"
            " h = Relu (w) d = Conv (h, down_conv) y = Add (d, t)"
        ),
        "convolution",
    ),
    "a stem": (
        "t = Transpose <perm = [0, 2, 1]> (x) u = Conv (t, wide) h = Relu (u) y = Conv (h, down_conv)",
        "convolution",
    ),
}


@pytest.mark.parametrize(("body", "kind"), KINDS.values(), ids=KINDS)
def test_a_block_is_of_a_kind(body: str, kind: str) -> None:
    blocks = _blocks(_model(body))
    assert {block.kind for block in blocks} == {kind} and blocks[0].reason is None
    assert blocks[0].to_dict()["kind"] == kind


SCALED = {"scaled": "w = Mul (e, beta)", "multiplied": "w = MatMul (beta, e)"}
MIXED = {
    "summed": "apart = Unsqueeze (h, second) p = Mul (apart, mix) r = ReduceSum <keepdims = 0> (p, third)",
    "multiplied": "c = MatMul (x, to_mix) maps = Reshape (c, four) k = Softmax (maps) r = MatMul (k, h)",
}


@pytest.mark.parametrize("mixed", MIXED.values(), ids=MIXED)
@pytest.mark.parametrize("scaled", SCALED.values(), ids=SCALED)
def test_hyper_connections_take_a_branch_back(scaled: str, mixed: str) -> None:
    """A network that is added to each of four mixed streams, each time scaled: no gate, but a residual branch."""
    weights = """float[8, 12] up, float[12, 8] down, float[4, 1] alpha, float[4, 1] beta, float[4, 4, 1] mix,
      float[8, 16] to_mix, int64[1] second = {2}, int64[1] third = {3}, int64[4] four = {0, 0, 4, 4}"""
    body = (
        "one = Unsqueeze (x, second) h = Mul (one, alpha) n = ReduceSum <keepdims = 0> (h, second)"
        " u = MatMul (n, up) a = Relu (u) d = MatMul (a, down) e = Unsqueeze (d, second)"
        f" {scaled} {mixed} s = Add (w, r) y = ReduceSum <keepdims = 0> (s, second)"
    )
    assert [block.kind for block in _blocks(_model(body, weights=weights))] == ["feed-forward"]


def test_no_choice_takes_ranks(command: Command, tmp_path: Path) -> None:
    """They are there to be named; a choice by data takes neurons."""
    body = "u = MatMul (x, up) h = Relu (u) d = MatMul (h, down) z = Add (d, x)"
    low = "p = MatMul (z, gate) q = MatMul (p, down) y = Add (q, z)"
    onnx.save(_model(f"{body} {low}"), tmp_path / "both.onnx")
    onnx.save(_model("u = MatMul (x, up) d = MatMul (u, down) y = Add (d, x)"), tmp_path / "low.onnx")
    words = ("--ratio", "0.3", "--units", "neurons", "--data", "random", "--multiple-of", "neurons=1")
    made = command("prune", tmp_path / "both.onnx", "-o", tmp_path / "o.onnx", *words, "--json")
    assert made.exit_code == 0, made.stderr
    lost = {cut["key"]: cut["removed"] for cut in made.document["plan"]["neurons"]}
    assert lost["ffn.0"] and not lost.get("ffn.1")
    refused = command("prune", tmp_path / "low.onnx", "-o", tmp_path / "o.onnx", *words)
    assert refused.exit_code == 3 and "no activation in between: name them" in refused.stderr
    named = command("prune", tmp_path / "low.onnx", "-o", tmp_path / "o.onnx", "--neurons", "0:1")
    assert named.exit_code == 0, named.stderr


HEADS = "int64[4] split = {0, 0, 2, 4}, int64[3] joined = {0, 0, 8}, float[8, 8] wq, float[8, 8] wk, float[8, 8] wv,"
CONTEXT = (
    "c = MatMul (p, v) t = Transpose <perm = [0, 2, 1, 3]> (c) j = Reshape (t, joined) o = MatMul (j, wo)"
)
VALUES = "vl = MatMul (x, wv) vs = Reshape (vl, split) v = Transpose <perm = [0, 2, 1, 3]> (vs)"
KEYS = "kl = MatMul (x, wk) ks = Reshape (kl, split) k = Transpose <perm = [0, 2, 3, 1]> (ks)"
QUERIES = "ql = MatMul (x, wq) qs = Reshape (ql, split) q = Transpose <perm = [0, 2, 1, 3]> (qs)"
OWN = {
    "stored queries": ("float[2, 5, 4] q", f"{KEYS} {VALUES} s = MatMul (q, k) p = Softmax (s) {CONTEXT}"),
    "stored queries of one head": (
        "float[5, 8] q",
        (
            "kl = MatMul (x, wk) k = Transpose <perm = [0, 2, 1]> (kl) v = MatMul (x, wv) s = MatMul"
            " (q, k) p = Softmax (s)"
            " c = MatMul (p, v) o = MatMul (c, wo)"
        ),
    ),
    "stored keys and values": (
        "float[2, 4, 6] k, float[2, 6, 4] v",
        f"{QUERIES} s = MatMul (q, k) p = Softmax (s) {CONTEXT}",
    ),
    "maps that pick stored values by a distance": (
        "float[4, 3] rel_k, float[3, 4] rel_v, int64[1] eight = {8}, int64[4] whole = {2, 2, 3, 3}",
        (
            f"{QUERIES} {KEYS} {VALUES} a = MatMul (q, k) r = MatMul (q, rel_k) s = Add (a, r) p = Softmax (s)"
            " z = ReduceSum <keepdims = 0> (x) n = Sub (z, z) i = Cast <to = 7> (n) pads = Expand (i, eight)"
            " w = Pad (p, pads) g = Reshape (w, whole) e = MatMul (g, rel_v) d = MatMul (p, v) c = Add (d, e)"
            " t = Transpose <perm = [0, 2, 1, 3]> (c) j = Reshape (t, joined) o = MatMul (j, wo)"
        ),
    ),
    "maps that are mixed": (
        "float[2, 2] before, float[2, 2] after",
        (
            f"{QUERIES} {KEYS} {VALUES} s = MatMul (q, k) st = Transpose <perm = [0, 2, 3, 1]> (s) sm ="
            f" MatMul (st, before)"
            " sb = Transpose <perm = [0, 3, 1, 2]> (sm) w = Softmax (sb) wt = Transpose <perm = [0, 2, 3, 1]> (w)"
            f" wm = MatMul (wt, after) p = Transpose <perm = [0, 3, 1, 2]> (wm) {CONTEXT}"
        ),
    ),
    "maps of stored queries that are mixed": (
        "float[2, 1, 4] q, float[2, 2] before, float[2, 2] after",
        (
            f"{KEYS} {VALUES} s = MatMul (q, k) st = Transpose <perm = [0, 2, 3, 1]> (s) sm = MatMul (st, before)"
            " sb = Transpose <perm = [0, 3, 1, 2]> (sm) w = Softmax (sb) wt = Transpose <perm = [0, 2, 3, 1]> (w)"
            f" wm = MatMul (wt, after) p = Transpose <perm = [0, 3, 1, 2]> (wm) {CONTEXT}"
        ),
    ),
    "features of queries and keys": (
        "float[4, 6] features",
        (
            f"{QUERIES} {KEYS} {VALUES} qf = MatMul (q, features) qe = Exp (qf) kt = Transpose <perm ="
            f" [0, 1, 3, 2]> (k)"
            " kf = MatMul (kt, features) ke = Exp (kf) kb = Transpose <perm = [0, 1, 3, 2]> (ke) kv = MatMul (kb, v)"
            " c = MatMul (qe, kv) t = Transpose <perm = [0, 2, 1, 3]> (c) j = Reshape (t, joined) o = MatMul (j, wo)"
        ),
    ),
    "a layer that all heads share": (
        "float[4, 4] same",
        (
            f"{QUERIES} {KEYS} {VALUES} s = MatMul (q, k) p = Softmax (s) c = MatMul (p, v)"
            " t = Transpose <perm = [0, 2, 1, 3]> (c) l = MatMul (t, same) j = Reshape (l, joined) o = MatMul (j, wo)"
        ),
    ),
}


@pytest.mark.parametrize(("weights", "body"), OWN.values(), ids=OWN)
def test_what_an_attention_owns_is_no_block(weights: str, body: str) -> None:
    """The feed-forward block behind it is all that is listed, and nothing of the attention is a near miss of one."""
    behind = "u = MatMul (o, up) h = Relu (u) y = MatMul (h, down)"
    model = _model(f"{body} {behind}", weights=f"{HEADS} {weights}, float[8, 8] wo, {WEIGHTS}")
    sites = inspect(model)
    # What the attention projects is read by the block without an activation in between.
    named = {(block.num_units, block.kind) for block in sites.neurons}
    assert named <= {(12, "mlp"), (8, "low-rank")} and (12, "mlp") in named
    assert sites.hidden == ()
    makers = {core.inputs[1].name for block in sites.neurons for core in block.cores if core.inputs[1]}
    assert makers <= {"wo", "up"}


NORMS = {
    "root mean square": (
        "q = Mul (h, h) m = ReduceMean <axes = [-1]> (q) e = Sqrt (m) n = Div (h, e)",
        "ReduceMean",
    ),
    "mean and variance": (
        (
            "m = ReduceMean <axes = [-1]> (h) c = Sub (h, m) q = Mul (c, c) v = ReduceMean <axes ="
            " [-1]> (q) e = Sqrt (v)"
            " n = Div (c, e)"
        ),
        "ReduceMean",
    ),
    "length": ("l = ReduceL2 <axes = [-1]> (h) n = Div (h, l)", "ReduceL2"),
    "centre": ("m = ReduceMean <axes = [-1]> (h) n = Sub (h, m)", "ReduceMean"),
    "levels of the largest": (
        "i = Abs (h) m = ReduceMax <axes = [-1]> (i) l = Div (h, m) r = Round (l) n = Mul (r, m)",
        "ReduceMax",
    ),
    "one operator": ("n = LayerNormalization <axis = -1> (h, b, b)", "LayerNormalization"),
}


@pytest.mark.parametrize(("norm", "operator"), NORMS.values(), ids=NORMS)
@pytest.mark.parametrize(
    "made", [f"{UP} h = Relu (a)", "u = MatMul (x, up) g = MatMul (x, gate) h = Mul (u, g)"]
)
def test_a_normalisation_of_neurons_is_the_reason(made: str, norm: str, operator: str) -> None:
    (block,) = _blocks(_model(f"{made} {norm} d = MatMul (n, down) y = Add (d, x)"))
    assert (block.kind, block.removable) == ("feed-forward", False)
    assert (
        operator in str(block.reason) and "neurons" in str(block.reason) and "heads" not in str(block.reason)
    )


def test_an_operator_without_a_rule_is_named() -> None:
    body = f"{UP} h = mine.Mystery (a) d = MatMul (h, down) y = Add (d, x)"
    model = _model(body)
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("h", 1, [2, 3, 12]))
    sites = inspect(model)
    (miss,) = sites.hidden
    assert sites.neurons == () and "no rule for mine.Mystery" in miss.reason.sentence
    assert miss.to_dict()["units"] == "neurons" and "-> d" in miss.node


def test_unknown_shapes_are_named() -> None:
    (miss,) = inspect(_model(f"{UP} h = mine.Mystery (a) d = MatMul (h, down) y = Add (d, x)")).hidden
    assert "shapes around it are not known" in miss.reason.sentence


def test_groups_of_channels_are_named() -> None:
    body = "t = Transpose <perm = [0, 2, 1]> (x) u = Conv (t, up_conv) h = Relu (u) y = Conv <group = 2> (h, groups)"
    (miss,) = inspect(_model(body, weights=f"float[8, 6, 1] groups, {WEIGHTS}")).hidden
    assert "the channels of each group apart" in miss.reason.sentence


def test_who_else_needs_the_neurons_is_named() -> None:
    elsewhere = inspect(
        _model(f"{UP} h = Relu (a) y = MatMul (h, down) z = ReduceMax (h)", "y, float[a, b, c] z")
    )
    assert elsewhere.neurons == () and "ReduceMax" in elsewhere.hidden[0].reason.sentence
    output = inspect(_model(f"{UP} h = Relu (a) y = MatMul (h, down)", "y, float[a, b, c] h"))
    assert output.neurons == () and "an output of the model" in output.hidden[0].reason.sentence


def test_a_residual_stream_is_no_pair() -> None:
    """An embedding that a layer makes is read through a normalisation, and by the residual sum."""
    stream = "float[8] s, float[8] t, float[8, 8] embed"
    body = (
        "e = MatMul (x, embed) n = LayerNormalization <axis = -1> (e, s, t) u = MatMul (n, up) h = Relu (u)"
        " d = MatMul (h, down) r = Add (d, e) m = LayerNormalization <axis = -1> (r, s, t) w = MatMul (m, gate)"
        " k = Relu (w) l = MatMul (k, down) y = Add (r, l)"
    )
    sites = inspect(_model(body, weights=f"{stream}, {WEIGHTS}"))
    assert [block.kind for block in sites.neurons] == ["feed-forward"] * 2 and sites.hidden == ()


def test_a_model_without_attention_lists_its_blocks(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "blocks.onnx"
    onnx.save(_model(f"{UP} h = Relu (a) d = MatMul (h, down) y = Add (d, x)"), path)
    shown = command("inspect", path)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "no attention site" in shown.stdout and "ffn.0" in shown.stdout and "feed-forward" in shown.stdout
    document = command("inspect", path, "--json")
    assert document.exit_code == 0 and len(document.document["feed_forward"]) == 1


def test_what_comes_near_is_told(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "near.onnx"
    model = _model(f"{UP} h = mine.Mystery (a) d = MatMul (h, down) y = Add (d, x)")
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("h", 1, [2, 3, 12]))
    onnx.save(model, path)
    shown = command("inspect", path, "--json")
    assert shown.exit_code == 3
    assert [miss["units"] for miss in shown.document["near_misses"]] == ["neurons"]
    refused = command("prune", path, "-o", tmp_path / "o.onnx", "--neurons", "0:1")
    assert refused.exit_code == 3 and "comes near" in refused.stderr and "mine.Mystery" in refused.stderr
