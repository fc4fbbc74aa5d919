"""Taylor scores: gradients against central differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxheadprune as ohp
from onnxheadprune import RefusedError, UsageError
from onnxheadprune.attention.masking import with_variables
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.choosing.scoring.score import score
from onnxheadprune.choosing.scoring.taylor import MaskGradients, likeliest, projection
from onnxheadprune.model.facts import Fact
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from tests.graph_text import model_of
from tests.graphs import toys

HERE = Provider(CPU, "test")
STEP = 1e-5
DRAWS = 40_000
GQA: dict[str, Any] = {"heads": 6, "kv_heads": 2}
FORMS: list[dict[str, Any]] = [{}, GQA, {"heads": 4, "kv_heads": 1}, {"shared": True}]


@pytest.fixture(autouse=True)
def few_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not matter how exact a score is."""
    monkeypatch.setattr("onnxheadprune.choosing.scoring.taylor.LEAST", 16)


def weighted(model: ModelProto, feed: Any, vectors: Any) -> float:
    (output,) = Session(model, HERE).run(feed).values()
    return float((output * vectors).sum())


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_masks_are_central_differences(form: dict[str, Any]) -> None:
    """In float64, for every head and every neuron."""
    model = toys.stack(**form, dtype=np.float64)
    view, sites, data = toys.parts(model)
    feed = data.feeds[0]
    (before,) = Session(model, HERE).run(feed).values()
    vectors = np.random.default_rng(0).normal(size=before.shape)
    masked_sites = (*sites.of("heads"), *sites.of("neurons"))
    found = MaskGradients(view, masked_sites, "logits", HERE).of(feed, vectors, "the data")
    assert sorted(found) == [site.index for site in masked_sites] and len(found) == 4
    masked, masks = with_variables(view, (item for site in masked_sites for item in site.projections))
    assert weighted(masked, feed, vectors) == pytest.approx(weighted(model, feed, vectors), rel=1e-12)
    stored = {tensor.name: tensor for tensor in masked.graph.initializer}
    for site in masked_sites:
        (projection,) = site.projections
        tensor = stored[masks[projection.node].name]
        ones = numpy_helper.to_array(tensor)
        for unit in range(site.num_units):
            values = []
            for mask in (1 + STEP, 1 - STEP):
                channels = projection.live_without((unit,)).astype(np.float64)
                channels[~projection.live_without((unit,))] = mask
                moved = projection.spread(channels, ones.ndim)
                tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
                values.append(weighted(masked, feed, vectors))
            tensor.CopyFrom(numpy_helper.from_array(ones, tensor.name))
            slope = (values[0] - values[1]) / (2 * STEP)
            assert found[site.index][unit] == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_a_probe_leaves_out_what_does_not_count() -> None:
    rng = np.random.default_rng(0)
    output = rng.normal(size=(2, 3, 4))
    output[0, 0, 1] = np.nan
    counts = np.array([[True, True, False], [True, True, True]])
    for probe in (
        projection(output, counts, rng),
        likeliest(MainOutput("y", is_logits=True), output, counts),
    ):
        assert probe.positions == 4
        alive = np.abs(probe.vectors).sum(axis=-1) > 0
        np.testing.assert_array_equal(alive, [[False, True, False], [True, True, True]])
        assert np.isfinite(probe.vectors).all()


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
    whole = score(model, method="taylor", data=[feed], provider=HERE)
    alone = [{"input_ids": feed["input_ids"][row : row + 1]} for row in range(6)]
    split = score(model, method="taylor", data=alone, provider=HERE)
    for one, other in zip(whole.sites, split.sites, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-6)  # type: ignore[arg-type]


def test_taylor_scores_are_those_of_the_likeliest_token() -> None:
    """The mean over samples of the absolute sum over positions, per position: by hand from the gradients."""
    model = toys.stack()
    view, sites, data = toys.parts(model, toys.ids(2, rows=3, length=5))
    scores = score(model, method="taylor", data=data, provider=HERE)
    gradients, session = MaskGradients(view, sites.sites, "logits", HERE), Session(model, HERE)
    total = {site.index: np.zeros(site.num_units) for site in sites}
    for feed in data.one_by_one():
        logits = session.run(feed)["logits"].astype(np.float64)
        likely = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        label = np.eye(logits.shape[-1])[logits.argmax(axis=-1)]
        for index, found in gradients.of(feed, label - likely, "the data").items():
            total[index] += np.abs(found)
    for site in sites:
        np.testing.assert_allclose(scores.of(site), total[site.index] / 30, rtol=1e-5)


@pytest.mark.each_choice
@pytest.mark.parametrize("form", [{"dtype": np.float16}, {"quantized": True}, GQA])
def test_heads_and_neurons_are_told_apart(form: dict[str, Any]) -> None:
    model = toys.stack(**form)
    scores = score(model, method="taylor", data=toys.ids(), provider=HERE, units={"heads", "neurons"})
    assert [site.key for site in scores.sites] == ["0", "1", "ffn.0", "ffn.1"]
    for site in scores.sites:
        assert min(site.scores) > 0 and len(set(site.scores)) == len(site.scores)  # type: ignore[type-var]
    assert score(model, method="taylor", data=toys.ids(), provider=HERE).sites == scores.heads


NO_GRADIENT = """
<ir_version: 10, opset_import: ["" : 17]>
g (float[batch, 4] x) => (float[batch, 6] y)
<float[4, 8] w, float[8, 4] v, float[4, 8] w2, float[8, 6] v2, float one = {1}> {
   a = MatMul (x, w)
   b = Relu (a)
   c = MatMul (b, v)
   d = {MIDDLE}
   e = MatMul (d, w2)
   f = Relu (e)
   y = MatMul (f, v2)
}
"""


def test_a_block_that_no_gradient_reaches_is_refused_with_the_node() -> None:
    data = [{"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)}]
    for middle, works in (("Tanh (c)", True), ("Sign (c)", False)):
        model = model_of(NO_GRADIENT.replace("{MIDDLE}", middle))
        assert len(sites_of(view_of(model), "m").neurons) == 3
        if works:
            assert score(model, method="taylor", data=data, provider=HERE, units={"neurons"}).blocks
            continue
        with pytest.raises(RefusedError, match=r"no gradient of y reaches ffn\.0 .*Sign.*another method"):
            score(model, method="taylor", data=data, provider=HERE, units={"neurons"})


def test_what_is_held_constant_on_the_way_is_named() -> None:
    data = [{"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)}]
    text = NO_GRADIENT.replace("d = {MIDDLE}", "s = Sign (c)\n   d = Add (c, s)")
    scores = score(model_of(text), method="taylor", data=data, provider=HERE, units={"neurons"})
    assert list(scores.constant) == ["c"] and "Sign" in scores.constant["c"]
    assert scores.to_dict()["constant"] == scores.constant
    target: Any = {"ratio": 0.3, "units": "neurons", "method": "taylor", "multiple_of": {"neurons": 1}}
    result = ohp.prune(model_of(text), **target, data=data, provider="cpu", validate=False)
    assert result.chosen is not None and result.chosen.selection.constant == scores.constant
    texts = [part.text for part in result.facts().details if isinstance(part, Fact)]
    assert any(text.startswith("held constant: c: ") for text in texts)


def test_a_measure_of_ones_own_has_no_gradient() -> None:
    with pytest.raises(UsageError, match="has no gradient that taylor could take"):
        score(
            toys.stack(),
            method="taylor",
            data=toys.ids(),
            provider=HERE,
            effect=lambda *_: 1.0,
        )


@pytest.mark.slow
def test_exports_of_one_network_have_the_same_scores(tiny: Path) -> None:
    random = np.random.default_rng(0)
    mask = np.ones((8, 6), np.int64)
    mask[::2, 4:] = 0
    data = [{"input_ids": random.integers(0, 64, (8, 6)), "attention_mask": mask}]
    one, other = (
        score(tiny / f"{name}.onnx", method="taylor", data=data, provider=HERE, units={"heads", "neurons"})
        for name in ("bert-dynamo-sdpa", "bert-torchscript-eager")
    )
    assert (
        one.unit == "estimated 1 - cosine" and [len(site.scores) for site in one.sites] == [4] * 3 + [48] * 3
    )
    for left, right in zip(one.sites, other.sites, strict=True):
        np.testing.assert_allclose(left.scores, right.scores, rtol=1e-3)  # type: ignore[arg-type]
