"""Mixtures as people write them lose experts as exactly as those of libraries, or are listed with the reason.

The oracle is arithmetic in float64, in which scores of removed experts are minus infinity; it knows nothing of sites,
masks or the graph.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

import onnxheadprune as ohp
from onnxheadprune import Sites, inspect
from tests.conftest import Command
from tests.graphs.experts import BY_HAND, CHOSEN, EXPERTS, TOYS, Experts, tokens
from tests.liveness.one_node import run


@pytest.mark.parametrize("routing", ["sorted", "softmax", "all, softmax"])
def test_as_many_stay_as_are_chosen(routing: str, command: Command, tmp_path: Path) -> None:
    """A sort lists all experts; what is read of it is chosen."""
    body = "side by side"
    path, out = tmp_path / "model.onnx", tmp_path / "cut.onnx"
    onnx.save(Experts(routing, body).model(), path)
    least = 1 if routing == "all, softmax" else CHOSEN
    few = command("prune", path, "-o", out, "--experts", f"0:0-{EXPERTS - least}")
    assert few.exit_code == 3
    assert f"{least - 1} would be left to choose {least} from" in " ".join(few.stderr.split())
    shown = command("prune", path, "-o", out, "--experts", f"0:0-{EXPERTS - least - 1}")
    assert shown.exit_code == 0
    x, toy = tokens(), Experts(routing, body)
    np.testing.assert_allclose(
        run(onnx.load(out), {"x": x})["out"], toy.expected(x, range(EXPERTS - least)), atol=2e-5
    )


def test_experts_that_all_tokens_use_are_only_named(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(Experts("all, softmax", "weighed").model(), path)
    np.savez(tmp_path / "data.npz", x=tokens())
    asked = command(
        *("prune", path, "-o", tmp_path / "no.onnx", "--units", "experts", "--ratio", "0.5"),
        *("--data", tmp_path / "data.npz"),
    )
    assert asked.exit_code == 3
    assert "each token goes through all of its experts" in " ".join(asked.stderr.split())


def _text(body: str, outputs: str = "float[7, 4] out", **shapes: tuple[int, ...]) -> ModelProto:
    """A model with some stored tensors, random but always the same."""
    model = parser.parse_model(f"""
<ir_version: 9, opset_import: ["" : 18]>
mixture (float[7, 4] x) => ({outputs})
<int64[1] last = {{-1}}, int64[1] first = {{0}}, int64[1] middle = {{1}}, int64[1] two = {{2}}, int64[1] three = {{3}},
 int64[1] one = {{1}}, int64[1] six = {{6}}, int64[3] by_group = {{-1, 2, 3}}, int64[2] offsets = {{0, 3}},
 int64[3] every = {{6, 7, 4}}>
{{{body}}}""")
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        array = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for number, node in enumerate(model.graph.node):
        node.name = f"mixture/{node.op_type}_{number}"
    return model


_PICKED = """
  u = Gather <axis = 0> (up, i)
  d = Gather <axis = 0> (down, i)
  row = Unsqueeze (x, middle)
  made = MatMul (row, u)
  h = Relu (made)
  back = MatMul (h, d)
  y = Squeeze (back, middle)
  out = Add (x, y)
"""
STACKED = {"up": (6, 4, 5), "down": (6, 5, 4)}
NOT_CUT = {
    "one expert of each group, numbered with offsets": (
        """
  r = MatMul (x, router)
  grouped = Reshape (r, by_group)
  p = Softmax <axis = -1> (grouped)
  g = ReduceMax <keepdims = 0> (p, last)
  in_group = ArgMax <axis = 2, keepdims = 0> (p)
  i = Add (in_group, offsets)
  u = Gather <axis = 0> (up, i)
  d = Gather <axis = 0> (down, i)
  column = Unsqueeze (x, middle)
  each = Unsqueeze (column, middle)
  made = MatMul (each, u)
  h = Relu (made)
  back = MatMul (h, d)
  flat = Squeeze (back, two)
  share = Unsqueeze (g, last)
  weighed = Mul (flat, share)
  y = ReduceSum <keepdims = 0> (weighed, middle)
  out = Add (x, y)
""",
        "mixture/Softmax_2 (Softmax) compares the scores of experts of one group",
    ),
    "numbers by arithmetic": (
        "  r = MatMul (x, router)\n  best = ArgMax <axis = 1, keepdims = 0> (r)\n  i = Mod (best, three_alone)\n"
        "  three_alone = Squeeze (three, first)\n" + _PICKED,
        "(Mod) reads the numbers of experts",
    ),
}


@pytest.mark.parametrize(("body", "told"), NOT_CUT.values(), ids=NOT_CUT)
def test_what_no_rule_knows_is_listed_with_the_node(
    body: str, told: str, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_sorted(_text(body, router=(4, 6), **STACKED)), path)
    (mixture,) = inspect(path).of("experts")
    assert told in str(mixture.reason)
    assert told in " ".join(command("inspect", path).stdout.split())


def _sorted(model: ModelProto) -> ModelProto:
    """The model with what is computed from constants first, as ONNX asks for."""
    stored = {tensor.name for tensor in model.graph.initializer}
    nodes = sorted(model.graph.node, key=lambda node: not {*node.input} <= stored)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


NO_MIXTURE = {
    "neurons of stacked networks": (
        """
  row = Unsqueeze (x, first)
  many = Expand (row, every)
  made = MatMul (many, up)
  h = Relu (made)
  back = MatMul (h, down)
  y = ReduceSum <keepdims = 0> (back, first)
  out = Add (x, y)
""",
        STACKED,
    ),
    "a gated network": (
        """
  made = MatMul (x, up)
  gate = Sigmoid (made)
  value = MatMul (x, value_up)
  h = Mul (gate, value)
  y = MatMul (h, down)
  out = Add (x, y)
""",
        {"up": (4, 6), "value_up": (4, 6), "down": (6, 4)},
    ),
    "stored vectors": (
        """
  r = MatMul (x, router)
  p = Softmax <axis = -1> (r)
  y = MatMul (p, slots)
  out = Add (x, y)
""",
        {"router": (4, 6), "slots": (6, 4)},
    ),
    "classes": (
        """
  r = MatMul (x, router)
  p = Softmax <axis = -1> (r)
  i = ArgMax <axis = 1, keepdims = 0> (p)
  out = Identity (x)
""",
        {"router": (4, 6)},
    ),
    "a gate for channels": (
        """
  image = Unsqueeze (x, last)
  mean = ReduceMean <keepdims = 0> (image, last)
  squeezed = MatMul (mean, squeeze)
  bent = Relu (squeezed)
  r = MatMul (bent, excite)
  g = Sigmoid (r)
  gate = Unsqueeze (g, last)
  gated = Mul (image, gate)
  made = Conv (gated, kernel)
  out = Squeeze (made, last)
""",
        {"squeeze": (4, 3), "excite": (3, 4), "kernel": (4, 4, 1)},
    ),
    "bins of a box": (
        """
  r = MatMul (x, corners)
  sides = Reshape (r, by_group)
  p = Softmax <axis = -1> (sides)
  distances = MatMul (p, project)
  best, unused = TopK <axis = -1> (p, two)
  statistics = Flatten <axis = 1> (best)
  quality = MatMul (statistics, own)
  box = MatMul (distances, last_layer)
  y = Add (quality, box)
  out = Add (x, y)
""",
        {"corners": (4, 6), "project": (3,), "own": (4, 4), "last_layer": (2, 4)},
    ),
    "bins of a box that a second layer moves": (
        """
  r = MatMul (x, corners)
  h = Tanh (x)
  moves = MatMul (h, more_corners)
  sum = Add (r, moves)
  sides = Reshape (sum, by_group)
  p = Softmax <axis = -1> (sides)
  distances = MatMul (p, project)
  box = MatMul (distances, last_layer)
  best, unused = TopK <axis = -1> (p, two)
  statistics = Flatten <axis = 1> (best)
  quality = MatMul (statistics, own)
  y = Add (quality, box)
  out = Add (x, y)
""",
        {"corners": (4, 6), "more_corners": (4, 6), "project": (3,), "own": (4, 4), "last_layer": (2, 4)},
    ),
    "weighed matrices of stored numbers": (
        """
  r = MatMul (x, router)
  p = Softmax <axis = -1> (r)
  rows = Einsum <equation = "tk,knd->tnd"> (p, slots)
  made = MatMul (rows, own)
  y = ReduceMax <keepdims = 0> (made, middle)
  out = Add (x, y)
""",
        {"router": (4, 6), "slots": (6, 3, 4), "own": (4, 4)},
    ),
    "picked matrices of stored numbers": (
        """
  r = MatMul (x, router)
  best, i = TopK <axis = -1> (r, one)
  slot = Gather <axis = 0> (slots, i)
  rows = Squeeze (slot, middle)
  row = Unsqueeze (x, middle)
  prompted = Concat <axis = 1> (rows, row)
  made = MatMul (prompted, own)
  y = ReduceMax <keepdims = 0> (made, middle)
  out = Add (x, y)
""",
        {"router": (4, 6), "slots": (6, 3, 4), "own": (4, 4)},
    ),
    "codes of a product quantizer": (
        """
  r = MatMul (x, router)
  halves = Reshape (r, by_group)
  p = Softmax <axis = -1> (halves)
  share = Unsqueeze (p, last)
  weighed = Mul (share, codes)
  each = ReduceSum <keepdims = 0> (weighed, two)
  joined = Flatten <axis = 1> (each)
  y = MatMul (joined, own)
  out = Add (x, y)
""",
        {"router": (4, 6), "codes": (1, 2, 3, 4), "own": (8, 4)},
    ),
    "a bias for each pair of an attention": (
        """
  q1 = MatMul (x, q_own)
  k1 = MatMul (x, k_own)
  v1 = MatMul (x, v_own)
  g1 = MatMul (x, g_own)
  q2 = Reshape (q1, by_group)
  k2 = Reshape (k1, by_group)
  v2 = Reshape (v1, by_group)
  q = Transpose <perm = [1, 0, 2]> (q2)
  k = Transpose <perm = [1, 2, 0]> (k2)
  v = Transpose <perm = [1, 0, 2]> (v2)
  products = MatMul (q, k)
  r = MatMul (x, router)
  turned = Transpose <perm = [1, 0]> (r)
  pair = Unsqueeze (turned, middle)
  biased = Add (products, pair)
  p = Softmax <axis = -1> (biased)
  context = MatMul (p, v)
  back = Transpose <perm = [1, 0, 2]> (context)
  joined = Flatten <axis = 1> (back)
  gate = Sigmoid (g1)
  gated = Mul (joined, gate)
  y = MatMul (gated, own)
  out = Add (x, y)
""",
        dict.fromkeys(("q_own", "k_own", "v_own", "g_own"), (4, 6)) | {"router": (4, 2), "own": (6, 4)},
    ),
    "gates for channels in groups": (
        """
  g = MatMul (x, g_own)
  v = MatMul (x, v_own)
  groups = Reshape (g, by_group)
  values = Reshape (v, by_group)
  gate = Sigmoid (groups)
  gated = Mul (values, gate)
  joined = Flatten <axis = 1> (gated)
  y = MatMul (joined, own)
  out = Add (x, y)
""",
        {"g_own": (4, 6), "v_own": (4, 6), "own": (6, 4)},
    ),
    "a branch beside another one without weights": (
        """
  r = MatMul (x, router)
  p = Softmax <axis = -1> (r)
  g1, g2 = Split <axis = 1, num_outputs = 2> (p)
  h = MatMul (x, own)
  given = Relu (h)
  first_part = Mul (given, g1)
  second_part = Mul (x, g2)
  y = Add (first_part, second_part)
  out = Add (x, y)
""",
        {"router": (4, 2), "own": (4, 4)},
    ),
}


@pytest.mark.parametrize(("body", "shapes"), NO_MIXTURE.values(), ids=NO_MIXTURE)
def test_what_owns_no_matrices_is_no_mixture(body: str, shapes: dict[str, tuple[int, ...]]) -> None:
    sites: Sites = inspect(_text(body, **shapes))
    assert sites.of("experts") == ()
    assert [miss for miss in sites.hidden if miss.units == "experts"] == []


SENT = re.compile("tokens|dispatched|in slots|masked|one-hot|picked")
"""Bodies whose experts read what a router has sent to them, or weights that it has picked."""


@pytest.mark.each_choice
@pytest.mark.parametrize(
    "toy", [toy for toy in (TOYS | BY_HAND).values() if not SENT.search(toy.body)], ids=str
)
def test_what_reads_no_token_is_no_expert(toy: Experts) -> None:
    """A mixture weighs outputs of networks: with a stored input they are stored numbers, as the bins of a box."""
    model = toy.model()
    for node in model.graph.node:
        if node.output[0] not in ("r", "out"):
            node.input[:] = ["stored" if name == "x" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(tokens(), "stored"))
    assert inspect(model).of("experts") == ()


SLOTS = """
  score = Einsum <equation = "td,des->tes"> (x, phi)
  dispatch = Softmax <axis = 0> (score)
  flat = Reshape (score, flat_shape)
  shares = Softmax <axis = -1> (flat)
  combine = Reshape (shares, score_shape)
  inputs = Einsum <equation = "tes,td->esd"> (dispatch, x)
  made = MatMul (inputs, up)
  h = Relu (made)
  given = MatMul (h, down)
  y = Einsum <equation = "tes,esd->td"> (combine, given)
  out = Add (x, y)
"""


def test_experts_with_slots_are_removed() -> None:
    """Soft mixtures: a slot is a mean of all tokens, and each token gets a mean of all slots."""
    shapes = {"phi": (4, 6, 2), **STACKED}
    model = _text(SLOTS, **shapes)
    for name, numbers in (("flat_shape", [7, 12]), ("score_shape", [7, 6, 2])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    (mixture,) = inspect(model).of("experts")
    assert (mixture.num_units, mixture.reason, mixture.details["chosen"]) == (6, None, "all")
    stored = {item.name: numpy_helper.to_array(item).astype(np.float64) for item in model.graph.initializer}
    x = tokens()
    for gone in ([2], [0, 5]):
        left = np.delete(np.arange(6), gone)
        score = np.einsum("td,des->tes", x, stored["phi"][:, left])
        dispatch = np.exp(score - score.max(0))
        combine = np.exp(score - score.max((1, 2), keepdims=True))
        inputs = np.einsum("tes,td->esd", dispatch / dispatch.sum(0), x)
        given = np.maximum(inputs @ stored["up"][left], 0) @ stored["down"][left]
        want = x + np.einsum("tes,esd->td", combine / combine.sum((1, 2), keepdims=True), given)
        made = ohp.prune(model, heads={"moe.0": gone}, provider="cpu")
        assert made.validation is not None and made.validation.verdict == "passed"
        np.testing.assert_allclose(run(made.model, {"x": x})["out"], want, atol=2e-5)


def test_experts_that_choose_tokens_are_removed() -> None:
    """Each expert takes the three tokens with its highest shares; their outputs are added up by token."""
    body = """
  r = MatMul (x, router)
  p = Softmax <axis = -1> (r)
  turned = Transpose <perm = [1, 0]> (p)
  g, i = TopK <axis = -1> (turned, three)
  inputs = Gather <axis = 0> (x, i)
  made = MatMul (inputs, up)
  h = Relu (made)
  back = MatMul (h, down)
  share = Unsqueeze (g, last)
  weighed = Mul (back, share)
  places = Reshape (i, place_shape)
  rows = Reshape (weighed, row_shape)
  nothing = Sub (x, x)
  y = ScatterND <reduction = "add"> (nothing, places, rows)
  out = Add (x, y)
"""
    model = _text(body, router=(4, 6), **STACKED)
    for name, numbers in (("place_shape", [-1, 1]), ("row_shape", [-1, 4])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
    stored = {item.name: numpy_helper.to_array(item).astype(np.float64) for item in model.graph.initializer}
    x, gone = tokens(), [1, 4]
    scores = x.astype(np.float64) @ stored["router"]
    scores[:, gone] = -np.inf
    shares = np.exp(scores - scores.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    want = x.astype(np.float64)
    for expert in np.delete(np.arange(6), gone):
        for token in np.argsort(-shares[:, expert], kind="stable")[:3]:
            hidden = np.maximum(x[token] @ stored["up"][expert], 0)
            want[token] += shares[token, expert] * (hidden @ stored["down"][expert])
    made = ohp.prune(model, heads={"moe.0": gone}, provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed"
    np.testing.assert_allclose(run(made.model, {"x": x})["out"], want, atol=2e-5)
