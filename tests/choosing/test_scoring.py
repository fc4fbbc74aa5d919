"""Scores: each method against its definition, and files of scores, our own and others'."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import HeadScores, SiteScores, UsageError, inspect, read_scores, score
from onnxheadprune.choosing.activations.contexts import context_moments, projection_matrix
from onnxheadprune.choosing.scoring.ablation import GROUPS
from onnxheadprune.choosing.scoring.scores import ScoresFile
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.settings.units import NEURON
from tests.graphs import toys
from tests.liveness.one_node import run, running
from tests.wrong_documents import wrong_documents

HERE = Provider(CPU, "test")
GQA: dict[str, Any] = {"heads": 6, "kv_heads": 2}


# Ablation


def likelihoods(logits: Any) -> Any:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def divergence(before: Mapping[str, Any], after: Mapping[str, Any], feed: Mapping[str, Any]) -> float:
    """The mean over positions of the divergence of both distributions, or of 1 - cosine where there are no logits."""
    ((name, one),) = before.items()
    one, other = one.astype(np.float64), after[name].astype(np.float64)
    if name == "logits":
        old, new = likelihoods(one), likelihoods(other)
        each = (np.exp(old) * (old - new)).sum(axis=-1)
    else:
        each = 1 - (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    mask = feed.get("attention_mask", np.ones(each.shape))
    return float(each[mask.reshape(each.shape) != 0].mean())


def largest_change(before: Mapping[str, Any], after: Mapping[str, Any], _feed: Any) -> float:
    return float(max(np.abs(before[name] - after[name]).max() for name in before))


def effects(
    model: ModelProto, others: Sequence[ModelProto], data: Any, effect: Any = divergence
) -> list[float]:
    """The mean effect of each of some other models in place of one."""
    before = [run(model, feed) for feed in data]
    after = [running(other) for other in others]
    pairs = list(zip(before, data, strict=True))
    return [float(np.mean([effect(old, other(feed), feed) for old, feed in pairs])) for other in after]


def beside(one: ModelProto, two: ModelProto) -> ModelProto:
    """Two towers of the same inputs: what the second one reads lies behind the first one's blocks only in the file."""
    both = onnx.compose.merge_models(one, onnx.compose.add_prefix(two, "b."), io_map=[])
    for node in both.graph.node:
        node.input[:] = ["input_ids" if name == "b.input_ids" else name for name in node.input]
    del both.graph.input[1:]
    return both


@pytest.mark.first_case
@pytest.mark.parametrize(
    "form",
    [{}, GQA, {"heads": 4, "kv_heads": 1}, {"quantized": True}, {"shared": True}, {"layers": 3}],
    ids=str,
)
@pytest.mark.parametrize("effect", [divergence, largest_change])
def test_ablation_is_the_brute_force(form: dict[str, Any], effect: Any) -> None:
    graph, data = toys.graph(**form), toys.ids()
    scores = score(graph.model, method="ablation", data=data, drift=None if effect is divergence else effect)
    assert scores.unit == ("kl" if effect is divergence else "largest_change")
    for site in scores.sites:
        masked = [graph.masked({site.key: [head]}) for head in range(len(site.scores))]
        expected = effects(graph.model, masked, data, effect)
        np.testing.assert_allclose(site.scores, expected, rtol=1e-4, atol=1e-8)


def test_sites_of_two_towers_are_ablated_each_in_its_own() -> None:
    one, two = (toys.graph(layers=1, seed=seed) for seed in (0, 1))
    model, data = beside(one.model, two.model), toys.ids(2)
    scores = score(model, method="ablation", data=data, drift=largest_change)
    cuts: list[dict[str, list[int]]] = [{"0": [head]} for head in range(toys.HEADS)]
    masked = [
        [beside(one.masked(cut), two.model) for cut in cuts],
        [beside(one.model, two.masked(cut)) for cut in cuts],
    ]
    for site, others in zip(scores.sites, masked, strict=True):
        expected = effects(model, others, data, largest_change)
        np.testing.assert_allclose(site.scores, expected, rtol=1e-4)


# Reconstruction


# Simple methods


@pytest.mark.slow
def test_ablation_shares_out_the_effect_of_a_group_of_neurons() -> None:
    """By what each of them carries; the shares of a group add up to what it costs without all of it."""
    graph, data = toys.graph(), toys.ids()
    view, sites, calibration = toys.parts(graph.model, data)
    scores = score(graph.model, method="ablation", data=data, units={"neurons"})
    moments = context_moments(view, sites.neurons, calibration, HERE)
    for site in sites.neurons:
        weight, moment = projection_matrix(site.projections[0]), moments[site.index][0]
        carried = np.square(weight).sum(axis=1) * np.diag(moment.centred().covariance)
        values, groups = np.array(scores.of(site)), np.array_split(np.argsort(carried, kind="stable"), GROUPS)
        masked = [graph.masked({site.key: group.tolist()}) for group in groups]
        for group, cost in zip(groups, effects(graph.model, masked, data), strict=True):
            assert values[group].sum() == pytest.approx(cost, rel=1e-4, abs=1e-8)
            shares = carried[group] / carried[group].sum()
            np.testing.assert_allclose(values[group] / values[group].sum(), shares, rtol=1e-6)


# Files


SCORES = HeadScores(
    "taylor",
    "a unit",
    "m.onnx",
    (SiteScores(0, "attn", (0.5, None)), SiteScores(NEURON.first + 1, "mlp", (1.0, 2.0))),
    "0123",
    8,
    "lines.txt",
    {"x": "a reason"},
)


def test_scores_with_a_wrong_value_in_any_field_are_refused() -> None:
    document = SCORES.to_dict()
    assert HeadScores.from_dict(json.loads(json.dumps(document))) == SCORES
    for what, forged in wrong_documents(ScoresFile, document):
        # One of the index and the key of a site is enough.
        if "missing" not in what or what.split(" ")[0].split(".")[-1] not in ("index", "key", "sites"):
            with pytest.raises(UsageError, match="the scores"):
                HeadScores.from_dict(forged)


def test_a_site_of_scores_is_named_by_its_index_or_its_key() -> None:
    for name in ("index", "key"):
        document = SCORES.to_dict()
        for site in document["sites"]:
            del site[name]
        assert HeadScores.from_dict(document) == SCORES
    document["sites"][1] |= {"key": "ffn.1", "index": 1}
    with pytest.raises(UsageError):
        HeadScores.from_dict(document)


@pytest.mark.parametrize("name", ["scores.json", "scores.csv"])
@pytest.mark.parametrize("method", ["weight", "taylor"])
def test_scores_come_back_from_their_files(name: str, method: Any, tmp_path: Path) -> None:
    model, data = toys.stack(), None if method == "weight" else toys.ids(2)
    scores = score(model, tmp_path / name, method=method, data=data, units={"heads", "neurons"})
    back, sites = read_scores(tmp_path / name), inspect(model)
    assert back == scores if name == "scores.json" else back.unit == scores.unit
    for site in (*sites, *sites.neurons):
        assert back.of(site) == scores.of(site)
    assert [path.name for path in tmp_path.iterdir()] == [name]


BAD_FILES = (
    ("a.csv", "site,head\n0,1\n"),
    ("a.csv", "site,head,score\n0,1,x\n"),
    ("a.csv", "site,head,score\n0,-1,1\n"),
    ("a.csv", "site,head,score\n0,0,nan\n"),
    ("a.csv", "site,head,score\nffn.x,0,1\n"),
    ("a.csv", "site,head,score\nffn.0,1048576,1\n"),
    ("a.csv", "site,unit,score,method,means\n0,0,1,taylor,kl\n1,0,1,weight,share\n"),
    ("a.csv", "site,unit,score\n" + "".join(f"ffn.{site},1048575,1\n" for site in range(17))),
    ("a.json", "{"),
    ("a.json", '{"0": ["x"]}'),
    ("a.json", '{"0": [true, 1, 2, 3]}'),
    ("a.json", '{"0": ["0.5", 1, 2, 3]}'),
    ("a.json", '{"0": "12"}'),
    ("a.json", '{"sites": []}'),
    ("a.json", '{"format": 99, "sites": []}'),
    ("a.json", "[1, 2]"),
    ("a.json", '{"0": [NaN]}'),
)


@pytest.mark.parametrize(("name", "text"), BAD_FILES)
def test_damaged_scores_are_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError):
        read_scores(tmp_path / name)


def test_scores_of_another_model_are_refused(digits: Path, tiny: Path) -> None:
    foreign, sites = score(tiny / "bert-dynamo-sdpa.onnx", method="weight"), inspect(digits)
    lacking = HeadScores.from_dict({"0": [None, *range(7)]})
    for scores, site in ((foreign, sites[0]), (foreign, sites[3]), (lacking, sites[0])):
        with pytest.raises(UsageError):
            scores.of(site)
