"""Taylor scores: slopes of the log-likelihood, against central differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from onnxheadprune import RefusedError, inspect, score
from onnxheadprune.choosing.scoring.taylor import likeliest, projection
from onnxheadprune.model.graph.main_output import MainOutput
from tests.graph_text import model_of
from tests.graphs import toys
from tests.liveness.one_node import running

STEP = 1e-5
GQA: dict[str, Any] = {"heads": 6, "kv_heads": 2}
BOTH = frozenset({"heads", "neurons"})


@pytest.fixture(autouse=True)
def few_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not matter how exact a score is."""
    monkeypatch.setattr("onnxheadprune.choosing.scoring.taylor.LEAST", 16)


def scaled(model: Any, name: str, rows: slice) -> Iterator[Any]:
    """The model with some rows of a weight a little larger, and a little smaller."""
    weight = toys.get_initializer(model, name)
    for factor in (1 + STEP, 1 - STEP):
        moved = weight.copy()
        moved[rows] *= factor
        toys.set_initializer(model, name, moved)
        yield running(model)
    toys.set_initializer(model, name, weight)


@pytest.mark.parametrize("form", [{}, pytest.param(GQA, marks=pytest.mark.slow)], ids=str)
def test_scores_are_slopes_of_the_log_likelihood_of_the_likeliest_token(form: dict[str, Any]) -> None:
    """The mean over samples of the absolute sum over positions, per position, in float64, for every head and neuron."""
    model, data = toys.stack(**form, dtype=np.float64), toys.ids(1, rows=4, length=5)
    scores = score(model, method="taylor", data=data, units=BOTH)
    (feed,), sites = data, inspect(model)
    likely = running(model)(feed)["logits"].argmax(axis=-1)[..., None]

    def likelihood(session: Any) -> Any:
        logits = session(feed)["logits"]
        every = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return np.take_along_axis(every, likely, axis=-1).sum(axis=(1, 2))

    for site in (*sites, *sites.neurons):
        layer, is_block = site.index % 1_000_000, site in sites.neurons
        name, size = (f"layer{layer}.ffn.down", 1) if is_block else (f"layer{layer}.attn.out", toys.HEAD_SIZE)
        for unit, found in enumerate(scores.of(site)):
            more, less = map(
                likelihood, scaled(model, f"{name}.weight", slice(unit * size, (unit + 1) * size))
            )
            expected = np.abs((more - less) / (2 * STEP)).mean() / feed["input_ids"].shape[1]
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_likeliest_class_starts_with_the_slope_of_its_log_likelihood(probabilities: bool) -> None:
    main = MainOutput("y", is_logits=True, is_probabilities=probabilities)
    output = np.random.default_rng(0).normal(size=(5, 4))
    if probabilities:
        output = np.exp(output) / np.exp(output).sum(axis=-1, keepdims=True)
    else:
        output[0, 1] = -np.inf  # a class that is ruled out

    def likelihood(rows: np.ndarray, of: np.ndarray) -> np.ndarray:
        every = np.log(rows) if probabilities else rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))
        return np.asarray(every[np.arange(len(rows)), of])

    probe, likely = likeliest(main, output, np.ones(5, dtype=bool)), output.argmax(axis=-1)
    assert probe.positions == 5 and (probabilities or probe.vectors[0, 1] == 0)
    for at in range(4):
        step = np.eye(4)[at] * STEP
        slope = (likelihood(output + step, likely) - likelihood(output - step, likely)) / (2 * STEP)
        np.testing.assert_allclose(probe.vectors[:, at], slope, rtol=1e-6, atol=1e-8)


def test_a_random_projection_lies_across_the_output() -> None:
    output = np.random.default_rng(0).normal(size=(5, 4))
    probe = projection(output, np.ones(5, dtype=bool), np.random.default_rng(1))
    np.testing.assert_allclose((probe.vectors * output).sum(axis=-1), 0, atol=1e-12)
    twice = projection(2 * output, np.ones(5, dtype=bool), np.random.default_rng(1))
    np.testing.assert_allclose(2 * twice.vectors, probe.vectors)


def test_how_samples_are_put_into_feeds_changes_nothing() -> None:
    model, (feed,) = toys.stack(), toys.ids(1, rows=6)
    alone = [{"input_ids": feed["input_ids"][row : row + 1]} for row in range(6)]
    whole, split = (score(model, method="taylor", data=data) for data in ([feed], alone))
    for one, other in zip(whole.sites, split.sites, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)  # type: ignore[arg-type]


@pytest.mark.each_choice
@pytest.mark.parametrize("form", [{"dtype": np.float16}, {"quantized": True}, {"shared": True}], ids=str)
def test_heads_and_neurons_are_told_apart(form: dict[str, Any]) -> None:
    model = toys.stack(**form)
    scores = score(model, method="taylor", data=toys.ids(), units=BOTH)
    for site in scores.sites:
        assert min(site.scores) > 0 and len(set(site.scores)) == len(site.scores)  # type: ignore[type-var]
    assert score(model, method="taylor", data=toys.ids()).sites == scores.heads


NO_GRADIENT = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[batch, 4] x) => (float[batch, 6] y)
<float[4, 8] w, float[8, 4] v, float[4, 8] w2, float[8, 6] v2, float one = {1}> {
   a = MatMul (x, w)
   b = Relu (a)
   c = MatMul (b, v)
   {MIDDLE}
   e = MatMul (d, w2)
   f = Relu (e)
   y = MatMul (f, v2)
}
"""
ROWS: Any = [{"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)}]


def test_a_block_that_no_gradient_reaches_is_refused_with_the_node() -> None:
    model = model_of(NO_GRADIENT.replace("{MIDDLE}", "d = Sign (c)"))
    with pytest.raises(RefusedError, match=r"ffn\.0 .*Sign"):
        score(model, method="taylor", data=ROWS, units={"neurons"})
