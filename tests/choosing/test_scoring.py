"""Scores: each method against its definition, files and imports, and work that is shared, resumed or lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxheadprune as ohp
from onnxheadprune import Calibration, HeadScores, SiteScores, UsageError, read_scores
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.attention.specs import is_legal
from onnxheadprune.choosing.activations.contexts import context_moments, projection_matrix
from onnxheadprune.choosing.scoring.moves import path_by_worth
from onnxheadprune.choosing.scoring.reconstruction import DAMPING
from onnxheadprune.choosing.scoring.reconstruction import paths as reconstruction_paths
from onnxheadprune.choosing.scoring.score import score
from onnxheadprune.choosing.scoring.scores import ScoresFile
from onnxheadprune.choosing.targets import Requirements
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.drift import EffectMeter
from onnxheadprune.model.graph.main_output import main_output
from onnxheadprune.model.load import load_model
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.settings.units import NEURON
from tests.graphs import toys
from tests.wrong_documents import wrong_documents

HERE = Provider(CPU, "test")
GQA: dict[str, Any] = {"heads": 6, "kv_heads": 2}


def parsed(model: Any, data: Any) -> tuple[Any, Any, Calibration]:
    view = view_of(load_model(model))
    return view, sites_of(view, "the model"), calibration_data(data, view)


def images(rows: int = 96, seed: int = 0) -> dict[str, Any]:
    return {"images": np.random.default_rng(seed).random((rows, 1, 8, 8)).astype(np.float32)}


# Ablation


def brute_force(view: Any, sites: Any, data: Calibration, effect: Any = None) -> list[list[float]]:
    """The effect of each head by a run of the whole masked model."""
    main = main_output(view, ())
    assert main is not None
    original = Session(view.model, HERE)
    before = [original.run(feed) for feed in data.feeds]
    found = []
    for site in sites:
        row = []
        for head in range(site.num_heads):
            masked = Session(masked_reference(view, sites, {site.index: (head,)}), HERE)
            meter = EffectMeter(main, data.inputs, effect)
            for feed, outputs in zip(data.feeds, before, strict=True):
                meter.add(outputs, masked.run(feed), feed)
            row.append(meter.mean())
        found.append(row)
    return found


@pytest.mark.first_case
@pytest.mark.parametrize(
    "form", [{}, GQA, {"heads": 4, "kv_heads": 1}, {"quantized": True}, {"shared": True}]
)
def test_ablation_is_the_brute_force_on_toys(form: dict[str, Any]) -> None:
    model = toys.stack(**form)
    view, sites, data = toys.parts(model)
    scores = score(model, method="ablation", data=data, provider=HERE)
    assert scores.unit == "kl"
    np.testing.assert_allclose(
        [site.scores for site in scores.sites], brute_force(view, sites, data), rtol=1e-5, atol=1e-8
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_vit", "tiny/bert-dynamo-sdpa", "tiny/gpt2-torchscript-eager"])
def test_ablation_is_the_brute_force_on_exports(name: str, tiny: Path) -> None:
    random = np.random.default_rng(0)
    data: Any = images(32)
    if name != "digits_vit":
        mask = np.ones((8, 6), np.int64)
        mask[::2, 4:] = 0
        data = {"input_ids": random.integers(0, 64, (8, 6)), "attention_mask": mask}
    view, sites, data = parsed(tiny.parent / f"{name}.onnx", data)
    scores = score(tiny.parent / f"{name}.onnx", method="ablation", data=data, provider=HERE)
    assert scores.unit == ("1 - cosine" if "bert" in name else "kl")
    np.testing.assert_allclose(
        [site.scores for site in scores.sites], brute_force(view, sites, data), rtol=1e-5, atol=1e-8
    )


def largest_change(before: Mapping[str, Any], after: Mapping[str, Any], _feed: Any) -> float:
    return float(max(np.abs(before[name] - after[name]).max() for name in before))


def test_ablation_by_the_users_own_measure() -> None:
    model = toys.stack()
    view, sites, data = toys.parts(model)
    scores = score(model, method="ablation", data=data, provider=HERE, effect=largest_change)
    assert scores.unit == "largest_change"
    np.testing.assert_allclose(
        [site.scores for site in scores.sites], brute_force(view, sites, data, largest_change), rtol=1e-4
    )


# Reconstruction


def refit_error(site: Any, moments: Any, removed: frozenset[int]) -> float:
    """Variance that the best damped refit of the remaining channels leaves, by one direct solve."""
    total = 0.0
    variance = 0.0
    for projection, moment in zip(site.projections, moments, strict=True):
        covariance = moment.centred().covariance
        weight = projection_matrix(projection)
        damping = DAMPING * np.trace(covariance) / len(covariance)
        # Rows whose Gram matrix is the damped covariance: least squares on them is the damped refit.
        rows = np.linalg.cholesky(covariance + damping * np.eye(len(covariance))).T
        kept = np.flatnonzero(projection.live_without(sorted(removed)).reshape(-1))
        gone = np.setdiff1d(np.arange(len(weight)), kept)
        new = np.linalg.lstsq(rows[:, kept], rows @ weight, rcond=None)[0]
        total += float(np.square(rows @ weight - rows[:, kept] @ new).sum())
        total -= damping * float(np.square(weight[gone]).sum())
        variance += float(np.sum(weight * (covariance @ weight)))
    return total / variance


@pytest.mark.parametrize("form", [{}, GQA, {"heads": 4, "kv_heads": 1}, {"quantized": True}])
def test_the_path_costs_what_a_direct_refit_costs(form: dict[str, Any]) -> None:
    model = toys.stack(**form)
    view, sites, data = toys.parts(model)
    moments = context_moments(view, sites.sites, data, HERE)
    for site in sites:
        steps = reconstruction_paths(site, moments[site.index])[0]
        assert steps and all(is_legal(site.groups, set(step.removed)) for step in steps)
        for step in steps:
            expected = refit_error(site, moments[site.index], step.removed)
            # Each step's error is kept from falling below zero, so the sum may lie a little above.
            assert step.error == pytest.approx(expected, rel=0.02, abs=1e-3)
            assert step.error >= expected - 1e-9


def test_the_first_step_is_the_cheapest_head_of_all() -> None:
    view, sites, data = toys.parts(toys.stack())
    moments = context_moments(view, sites.sites, data, HERE)
    for site in sites:
        errors = [refit_error(site, moments[site.index], frozenset((head,))) for head in range(4)]
        assert reconstruction_paths(site, moments[site.index])[0][0].removed == {int(np.argmin(errors))}


def test_reconstruction_scores_keep_the_order_of_the_path_and_protection_is_kept() -> None:
    model = toys.stack()
    view, sites, data = toys.parts(model)
    moments = context_moments(view, sites.sites, data, HERE)
    scores = score(model, data=data, provider=HERE)
    for site, entry in zip(sites, scores.sites, strict=True):
        done: frozenset[int] = frozenset()
        order = []
        for step in reconstruction_paths(site, moments[site.index])[0]:
            order += sorted(step.removed - done)
            done = step.removed
        values = [entry.scores[head] for head in order]
        assert values == sorted(values)  # type: ignore[type-var]
        steps = reconstruction_paths(site, moments[site.index], protected=(1, 2))[0]
        assert steps[-1].removed == {0, 3}


def test_two_heads_of_which_one_does_all_the_work_of_the_other_cost_nothing() -> None:
    """A copy of a head in the same weights: what one computes, the other can take over."""
    model = toys.stack(layers=1)
    for tensor in model.graph.initializer:
        if tensor.name in [f"layer0.attn.{letter}.weight" for letter in "qkv"]:
            array = np.frombuffer(tensor.raw_data, np.float32).reshape(12, 16).copy()
            array[:, 4:8] = array[:, :4]
            tensor.raw_data = array.tobytes()
    view, sites, data = toys.parts(model)
    moments = context_moments(view, sites.sites, data, HERE)
    steps = reconstruction_paths(sites[0], moments[0])[0]
    assert steps[0].removed in ({0}, {1}) and steps[0].error < 1e-2 < steps[1].error


# Simple methods


def test_weights_alone_need_no_data_and_all_else_does(digits: Path) -> None:
    scores = score(digits, method="weight")
    assert scores.data is None
    for site in sites_of(view_of(load_model(digits)), "digits"):
        energies = np.square(projection_matrix(site.projections[0])).reshape(8, -1).sum(axis=1)
        np.testing.assert_allclose(scores.of(site), energies / energies.sum(), rtol=1e-6)
    with pytest.raises(UsageError, match="needs calibration data"):
        score(digits, method="taylor")
    with pytest.raises(UsageError, match="no scoring method"):
        score(digits, method="magic")  # type: ignore[arg-type]


# Files


def test_the_file_format_comes_back(digits: Path, tmp_path: Path) -> None:
    scores = score(digits, method="reconstruction", data=images(), provider=HERE)
    ohp.write_scores(scores, tmp_path / "scores.json")
    assert read_scores(tmp_path / "scores.json") == scores
    assert list(tmp_path.iterdir()) == [tmp_path / "scores.json"]
    content = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert content["data"]["samples"] == 96 and len(content["data"]["fingerprint"]) == 64
    with pytest.raises(UsageError, match="does not exist"):
        ohp.write_scores(scores, tmp_path / "missing" / "scores.json")


def test_scores_of_others(digits: Path, tmp_path: Path) -> None:
    site = sites_of(view_of(load_model(digits)), "digits")[1]
    table = "site,head,score,note\n" + "".join(f"1,{head},{head / 2},x\n" for head in range(8))
    (tmp_path / "scores.csv").write_text(table, encoding="utf-8")
    assert read_scores(tmp_path / "scores.csv").of(site) == tuple(head / 2 for head in range(8))
    assert HeadScores.from_dict({"1": list(range(8))}).of(site) == tuple(range(8))


BAD_FILES = {
    "a.csv": ("site,head\n0,1\n", "columns site, head and score"),
    "b.csv": ("site,head,score\n0,1,x\n", "damaged in line 2"),
    "c.csv": ("site,head,score\n0,-1,1\n", "there is no head -1"),
    "d.csv": ("site,head,score\n0,0,nan\n", "not finite"),
    "e.json": ("{", "are not JSON"),
    "f.json": ('{"0": ["x"]}', "no number"),
    "booleans.json": ('{"0": [true, 1, 2, 3]}', "no number: true"),
    "texts.json": ('{"0": ["0.5", 1, 2, 3]}', "no number"),
    "g.json": ('{"0": "12"}', "must be a mapping"),
    "h.json": ('{"sites": []}', "not in the format"),
    "i.json": ('{"format": 99, "sites": []}', "format: 99 is not one of 1"),
    "j.json": ("[1, 2]", "not in the format"),
    "k.json": ('{"0": [NaN]}', "not finite"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_damaged_scores_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(BAD_FILES[name][0], encoding="utf-8")
    with pytest.raises(UsageError, match=BAD_FILES[name][1]):
        read_scores(tmp_path / name)


def test_scores_of_another_model_are_refused(digits: Path, tiny: Path) -> None:
    foreign = score(tiny / "bert-dynamo-sdpa.onnx", method="weight")
    sites = sites_of(view_of(load_model(digits)), "digits")
    with pytest.raises(UsageError, match=r"4 scores for attn\.0 .* 8 heads; they are of another model"):
        foreign.of(sites[0])
    with pytest.raises(UsageError, match=r"no scores for attn\.3"):
        foreign.of(sites[3])
    with pytest.raises(UsageError, match="lack a head"):
        HeadScores.from_dict({"0": [None, *range(7)]}).of(sites[0])


def test_protected_heads(digits: Path) -> None:
    sites = sites_of(view_of(load_model(digits)), "digits")
    found = Requirements(protect="0:1,2 3 *:7").protected(sites)
    assert found == {0: {1, 2, 7}, 1: {7}, 2: {7}, 3: set(range(8))}
    assert Requirements().protected(sites) == {}
    for spec, why in (
        ("9:1", "no '9' to protect"),
        ("nowhere", "no 'nowhere' to protect"),
        ("0:8", "protects none"),
    ):
        with pytest.raises(UsageError, match=why):
            Requirements(protect=spec).protected(sites)


def test_the_least_worthy_go_first() -> None:
    sites = toys.parts(toys.stack(layers=1))[1]
    steps = path_by_worth(sites[0], [3.0, 1.0, 2.0, 9.0], protected=frozenset((1,)))
    assert [(sorted(step.removed), step.error) for step in steps] == [([2], 2), ([0, 2], 5), ([0, 2, 3], 14)]


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
    with pytest.raises(UsageError, match=r"the key 'ffn\.1' and another index"):
        HeadScores.from_dict(document)
