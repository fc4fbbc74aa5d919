"""Which experts go: scores against their definition in every form of a mixture, and choices that they lead to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

import onnxheadprune as ohp
from onnxheadprune import RefusedError, UsageError, inspect
from onnxheadprune.runtime import Array
from onnxheadprune.settings.registry import WITHOUT_DATA, methods_of
from onnxheadprune.settings.units import EXPERT
from tests.graphs import experts, mixtures, toys
from tests.graphs.experts import CHOSEN, EXPERTS, GROUPS, TOKENS, TOYS, Experts
from tests.graphs.table import table
from tests.liveness.one_node import run

ONLY: Any = ("experts",)
FEEDS = [{"x": experts.tokens(seed)} for seed in range(4)]
FAR = 0.2
"""The share of a score by which others may be lower and still have a part in its weight."""
Routed = tuple[Sequence[int], Array, Sequence[Array]]
"""A token's experts, the weights of the router and the outputs of these."""


def routed(toy: Experts, tokens: Array) -> Iterator[Routed]:
    """What a mixture does with each token, in float64."""
    stored = {name: array.astype(np.float64) for name, array in toy.tensors().items()}
    for token in tokens.astype(np.float64):
        chosen, weights = toy._choice(token @ stored["router"], stored["correction"], ())
        hidden = [np.maximum(token @ stored["up"][one] + stored["up_bias"][one], 0) for one in chosen]
        outputs = [
            row @ stored["down"][one] + stored["down_bias"][one]
            for row, one in zip(hidden, chosen, strict=True)
        ]
        yield chosen.tolist(), weights, outputs


def in_one_operator(toy: mixtures.Mixture, tokens: Array) -> Iterator[Routed]:
    """The same of a MoE or QMoE."""
    stored = toy.tensors()
    for token in tokens:
        scores = token.astype(np.float64) @ stored["router"]
        chosen = np.argsort(-scores, kind="stable")[:2]
        shares = np.exp(scores[chosen] - scores[chosen].max())
        outputs = [toy._map("2", toy._hidden(token, stored, int(one)), stored, int(one)) for one in chosen]
        yield chosen.tolist(), shares, outputs


def defined(tokens: Iterator[Routed], experts: int) -> Array:
    """The scores by their definition, as shares of the mixture."""
    count, weighted = np.zeros(experts), np.zeros(experts)
    for chosen, weights, outputs in tokens:
        for one, weight, output in zip(chosen, weights / weights.sum(), outputs, strict=True):
            count[one] += 1
            weighted[one] += weight * np.linalg.norm(output)
    found = weighted / np.maximum(count, 1)
    return np.asarray(found / found.sum())


def scored(model: ModelProto, method: Any, data: Any = FEEDS) -> Array:
    (site,) = ohp.score(model, method=method, data=None if method in WITHOUT_DATA else data, units=ONLY).sites
    return np.array(site.scores, np.float64)


@pytest.mark.first_case
@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_scores_are_their_definitions_in_every_form(toy: Experts) -> None:
    expected = defined(routed(toy, np.concatenate([feed["x"] for feed in FEEDS])), EXPERTS)
    np.testing.assert_allclose(scored(toy.model(), "reap"), expected, rtol=2e-5)


@pytest.mark.parametrize("toy", mixtures.RUNNABLE.values(), ids=mixtures.RUNNABLE)
def test_scores_of_experts_in_one_operator(toy: mixtures.Mixture) -> None:
    rows = np.random.default_rng(3).standard_normal((40, mixtures.HIDDEN)).astype(np.float32)
    expected = defined(in_one_operator(toy, rows), mixtures.EXPERTS)
    # The kernel of MoE writes over tokens that nobody else reads (docs/experts.md), and these have one more reader.
    found = scored(toy.model(), "reap", [{"x": rows}])
    np.testing.assert_allclose(found, expected, rtol=2e-3 if toy.op == "QMoE" else 2e-5)


def twice(toy: Experts) -> ModelProto:
    """Two mixtures one behind the other, and a feed-forward block behind both."""
    parts = [onnx.compose.add_prefix(toy.model(), prefix) for prefix in ("a/", "b/")]
    model = onnx.compose.merge_models(*parts, io_map=[("a/out", "b/x")])
    behind = parser.parse_graph(f"""
behind (float[{TOKENS}, {experts.HIDDEN}] stream) => (float[{TOKENS}, {experts.HIDDEN}] y)
{{
  made = MatMul (stream, first)
  active = Relu (made)
  update = MatMul (active, second)
  y = Add (stream, update)
}}""")
    random = np.random.default_rng(5)
    shapes = {"first": (experts.HIDDEN, 12), "second": (12, experts.HIDDEN)}
    for name, shape in shapes.items():
        array = random.standard_normal(shape).astype(np.float32)
        behind.initializer.append(numpy_helper.from_array(array, name))
    last = helper.make_model(behind, opset_imports=model.opset_import, ir_version=model.ir_version)
    return cast(ModelProto, onnx.compose.merge_models(model, last, io_map=[("b/out", "stream")]))


@pytest.mark.slow
def test_mixtures_behind_each_other() -> None:
    """The second one reads what the first one adds, and a cut of the first is measured through the second."""
    toy = TOYS["picked"]
    model, data = twice(toy), [{"a/x": feed["x"]} for feed in FEEDS]
    middle = np.concatenate([toy.expected(feed["x"]) for feed in FEEDS])
    first, second = ohp.score(model, method="reap", data=data, units=ONLY).sites
    rows = np.concatenate([feed["x"] for feed in FEEDS])
    for site, tokens in ((first, rows), (second, middle)):
        np.testing.assert_allclose(site.scores, defined(routed(toy, tokens), EXPERTS), rtol=1e-4)
    measured = ohp.score(model, method="ablation", data=data, units=ONLY)
    for site in measured.sites:
        for expert in (0, 3):
            cut = ohp.prune(model, heads={site.key: [expert]}, validate=False).model
            gaps = [_cosine(run(model, feed)["y"], run(cut, feed)["y"]) for feed in data]
            np.testing.assert_allclose(site.scores[expert], np.mean(gaps), rtol=1e-3, atol=1e-6)


def _cosine(one: Array, other: Array) -> float:
    sizes = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(np.mean(1 - (one * other).sum(axis=1) / sizes))


def chosen(model: ModelProto, data: Any = FEEDS, **target: Any) -> dict[str, list[int]]:
    """The experts that a target removes."""
    target = {"units": ONLY, **target}
    made = ohp.prune(model, **target, data=data, provider="cpu", refit=False, validate=False)
    assert made.chosen is not None
    return made.chosen.selection.spec


@pytest.mark.first_case
@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_never_fewer_than_are_chosen_and_groups_stay_equal(toy: Experts) -> None:
    """Asked for the most that can go; there are no scores that lead further."""
    grouped = "groups" in toy.routing
    (gone,) = chosen(toy.model(), keep=1, method="random").values()
    # In groups, two of each are added up before a group is chosen; one form chooses from the best of one more.
    least = CHOSEN * GROUPS if grouped else CHOSEN + (toy.routing == "one more")
    assert EXPERTS - len(gone) == least
    if grouped:
        size = EXPERTS // GROUPS
        assert np.bincount(np.array(gone) // size, minlength=GROUPS).tolist() == [size - CHOSEN] * GROUPS


def test_reap_refuses_experts_of_which_none_are_chosen() -> None:
    """It asks which experts a router chose; where each token goes through all of them, the reason is said."""
    met = 0
    for name, row in table().items():
        if name.startswith(("mixture", "experts")):
            for site in inspect(row.model).of("experts"):
                if site.removable and site.only_named is not None:
                    met += 1
                    with pytest.raises(RefusedError, match=re.escape(f"{site.label}: {site.only_named}")):
                        ohp.score(row.model, method="reap", units=ONLY, data=FEEDS)
    assert met > 10


def test_methods_are_those_of_the_kind() -> None:
    """Every method scores what says so, and is refused for all else by name."""
    with pytest.raises(UsageError, match="reap does not score heads; weight, reconstruction"):
        ohp.score(toys.stack(), method="reap", data=toys.ids())
    with pytest.raises(UsageError, match="taylor does not score experts; reap, ablation"):
        ohp.prune(TOYS["picked"].model(), ratio=0.5, units="experts", method="taylor", data=FEEDS)
    assert ohp.score(TOYS["picked"].model(), data=FEEDS, units=ONLY).method == "reap"
    for method in methods_of(EXPERT.scored_by):
        found = scored(TOYS["picked"].model(), method)
        assert found.shape == (EXPERTS,) and (found >= 0).all()


_ONE_BY_ONE = """
  v1, i1 = TopK <axis = -1> (r, one)
  none_left = Sub (v1, large)
  others = ScatterElements <axis = 1> (r, i1, none_left)
  v2, i2 = TopK <axis = -1> (others, one)
  i = Concat <axis = 1> (i1, i2)
  v = Concat <axis = 1> (v1, v2)
"""
_OWN_WEIGHT = """
  size# = Abs (<scores>)
  most# = Max (size#, v#)
  gap# = Sub (v#, <scores>)
  share# = Div (gap#, most#)
  is_far# = Greater (share#, far)
  near# = Where (is_far#, never, <scores>)
  p# = Softmax <axis = -1> (near#)
  w# = GatherElements <axis = 1> (p#, i#)
"""
STEPS = {
    "weights in common": "  w = Softmax <axis = -1> (v)\n",
    "weights of their own": _OWN_WEIGHT.replace("#", "1").replace("<scores>", "r")
    + _OWN_WEIGHT.replace("#", "2").replace("<scores>", "others")
    + "  w = Concat <axis = 1> (w1, w2)\n",
    "the more the lower": "  less = Neg (v)\n  w = Softmax <axis = -1> (less)\n",
}
"""Weights of two experts that are chosen one by one: GShard and NLLB-MoE, the sparse mixer of Phi-MoE, and nobody's."""


def _weights(steps: str, scores: Array) -> Array:
    """The weights of the two experts with the highest of a token's scores."""
    first, second = -np.sort(-scores)[:2]
    if steps != "weights of their own":
        shares = np.exp(np.array([first, second]) * (-1 if steps == "the more the lower" else 1))
        return np.asarray(shares / shares.sum())
    found = []
    for best, rest in ((first, scores), (second, scores[scores < first])):
        near = (best - rest) / np.maximum(np.abs(rest), best) <= FAR
        found.append(1 / np.exp(rest[near] - best).sum())
    return np.array(found)


@pytest.mark.parametrize("steps", STEPS)
def test_experts_that_are_chosen_one_by_one(steps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(experts.ROUTINGS, steps, _ONE_BY_ONE + STEPS[steps])
    model = Experts(steps).model()
    for name, number in {"large": 1e35, "far": FAR, "never": -1e35}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.float32([number]), name))
    with pytest.raises(RefusedError, match="1 would be left to choose 2 from"):
        ohp.prune(model, heads={"moe.0": range(1, EXPERTS)}, provider="cpu")
    rows = np.concatenate([feed["x"] for feed in FEEDS])
    weights = [_weights(steps, scores) for scores in rows @ Experts().tensors()["router"].astype(np.float64)]
    tokens = [
        (chosen, own, outputs)
        for own, (chosen, _, outputs) in zip(weights, routed(Experts(), rows), strict=True)
    ]
    if steps == "the more the lower":
        with pytest.raises(RefusedError, match="in 2 steps, whose weights depend on each other"):
            scored(model, "reap")
    else:
        np.testing.assert_allclose(scored(model, "reap"), defined(iter(tokens), EXPERTS), rtol=1e-3)
