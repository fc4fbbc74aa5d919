"""Scores of neurons: each method against its definition, files, and what a choice makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune import HeadScores, UsageError, read_scores
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.choosing.activations.contexts import context_moments, projection_matrix
from onnxheadprune.choosing.scoring.ablation import GROUPS
from onnxheadprune.choosing.scoring.reconstruction import wide_path, wide_path_by_worth
from onnxheadprune.choosing.scoring.score import score
from onnxheadprune.choosing.scoring.scores import store_scores
from onnxheadprune.data.drift import EffectMeter
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.settings.registry import WITHOUT_DATA, methods_of
from onnxheadprune.settings.units import NEURON
from tests.conftest import Command
from tests.graphs import toys

HERE = Provider(CPU, "test")
BOTH = frozenset({"heads", "neurons"})
CPU_ONLY = ("--provider", "cpu")


def scored(model: Any, method: Any, **options: Any) -> HeadScores:
    data = None if method in WITHOUT_DATA else toys.ids()
    return score(model, method=method, data=data, provider=HERE, units=BOTH, **options)


def test_reconstruction_scores_keep_the_order_of_the_path() -> None:
    model = toys.stack()
    view, sites, data = toys.parts(model)
    moments = context_moments(view, sites.neurons, data, HERE)
    scores = scored(model, "reconstruction")
    for site in sites.neurons:
        values, done = np.array(scores.of(site)), frozenset[int]()
        order = []
        for step in wide_path(site, moments[site.index]):
            order += sorted(step.removed - done)
            done = step.removed
        assert len(order) == site.num_units - 1
        assert (np.diff(values[order]) >= 0).all() and values.sum() >= 0.9


@pytest.mark.slow
def test_ablation_shares_out_the_effect_of_a_group_which_is_the_brute_force() -> None:
    model = toys.stack()
    view, sites, data = toys.parts(model)
    scores, moments = scored(model, "ablation"), context_moments(view, sites.neurons, data, HERE)
    assert scores.unit == "kl"
    main, original = require_main_output(view), Session(model, HERE)
    for site in sites.neurons:
        weight, moment = projection_matrix(site.projections[0]), moments[site.index][0]
        fluctuation = np.square(weight).sum(axis=1) * np.diag(moment.centred().covariance)
        values, ranks = np.array(scores.of(site)), np.argsort(fluctuation, kind="stable")
        groups = np.array_split(ranks, GROUPS)
        assert max(map(len, groups)) == 2, "a toy whose groups hold several"
        for group in groups:
            masked = Session(masked_reference(view, [site], {site.index: group.tolist()}), HERE)
            meter = EffectMeter(main, data.inputs)
            for feed in data.feeds:
                meter.add(original.run(feed), masked.run(feed), feed)
            assert values[group].sum() == pytest.approx(meter.mean(), rel=1e-4, abs=1e-8)
            parts = fluctuation[group]
            np.testing.assert_allclose(values[group] / values[group].sum(), parts / parts.sum(), rtol=1e-6)


def test_paths_by_worth_keep_widths_and_what_is_protected() -> None:
    (site, _) = toys.parts(toys.stack())[1].neurons
    worth = np.random.default_rng(0).random(site.num_units)
    path = wide_path_by_worth(site, worth.tolist(), 4, protected=(3, 4))
    assert [site.num_units - len(step.removed) for step in path] == [16, 12, 8, 4]
    order = [neuron for neuron in np.argsort(worth) if neuron not in (3, 4)]
    for step in path:
        assert step.removed == set(order[: len(step.removed)])
        assert step.error == pytest.approx(worth[sorted(step.removed)].sum())


# Files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scores.json", "scores.csv"])
@pytest.mark.parametrize("method", ["weight", "taylor"])
def test_scores_of_heads_and_neurons_come_back(name: str, method: str, tmp_path: Path) -> None:
    model = toys.stack()
    scores = scored(model, method)
    store_scores(scores, tmp_path / name)
    back = read_scores(tmp_path / name)
    assert (back.method, back.unit, back.are_shares) == (method, scores.unit, method == "weight")
    sites = toys.parts(model)[1]
    for site in (*sites.of("heads"), *sites.of("neurons")):
        assert back.of(site) == scores.of(site)
    if name == "scores.json":
        assert back == scores
    else:
        rows = (tmp_path / name).read_text(encoding="utf-8").splitlines()
        assert rows[0] == "site,unit,score,method,means" and len(rows) == 1 + 2 * 4 + 2 * 20
        assert rows[-1].startswith("ffn.1,19,")


def test_scores_of_others_name_blocks_too(tmp_path: Path) -> None:
    sites = toys.parts(toys.stack())[1]
    rows = [f"{site.key},{unit},{unit + 1}" for site in sites.every for unit in range(site.num_units)]
    for column in ("head", "unit"):
        (tmp_path / "s.csv").write_text(f"site,{column},score\n" + "\n".join(rows), encoding="utf-8")
        assert read_scores(tmp_path / "s.csv").of(sites.neurons[1]) == tuple(range(1, 21))
    mapping = HeadScores.from_dict({"0": [1] * 4, "ffn.0": list(range(20))})
    assert mapping.of(sites.neurons[0]) == tuple(range(20)) and mapping.kinds == "heads and neurons"


BAD = {
    "site,head,score\nffn.x,0,1\n": "must name sites by number",
    "site,head,score\nffn.0,1048576,1\n": "there is no neuron 1048576",
    "site,unit,score,method,means\n0,0,1,taylor,kl\n1,0,1,weight,share\n": "mix scores of several methods",
    "site,unit,score\n" + "".join(f"ffn.{site},1048575,1\n" for site in range(17)): "most have no score",
}


@pytest.mark.parametrize("text", BAD)
def test_tables_that_make_no_sense_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=BAD[text]):
        read_scores(tmp_path / "s.csv")


# Choices


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a model and its data."""
    onnx.save(toys.stack(), tmp_path / "toy.onnx")
    rows = np.concatenate([feed["input_ids"] for feed in toys.ids(20)])
    np.savez(tmp_path / "ids.npz", input_ids=rows)
    return tmp_path


QUICK = ("weight", "taylor")


@pytest.mark.parametrize(
    "method",
    [
        *QUICK,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in methods_of(NEURON.scored_by)
            if name not in QUICK
        ),
    ],
)
def test_a_choice_of_heads_and_neurons_by_every_method_is_exact(method: Any, place: Path) -> None:
    target: Any = {"ratio": 0.4, "units": BOTH, "method": method, "multiple_of": {"neurons": 2}}
    result = ohp.prune(place / "toy.onnx", **target, data=str(place / "ids.npz"), provider="cpu")
    assert result.validation is not None and result.validation.passed and result.chosen is not None
    selection = result.chosen.selection
    assert f"scores ({method}) within blocks, measured drift after refit" in selection.basis
    kinds = {site >= 1_000_000 for site, units in selection.heads.items() if units}
    assert kinds == {True, False}, "heads went, and neurons"


@pytest.mark.slow
def test_neurons_go_by_the_scores_of_a_file(command: Command, place: Path) -> None:
    """The last neurons are worth least: those are what goes, whatever a refit would have taken."""
    rows = [f"{key},{unit},1" for key in "01" for unit in range(4)]
    rows += [f"ffn.{block},{unit},{100 - unit}" for block in (0, 1) for unit in range(20)]
    path = place / "mine.csv"
    path.write_text("site,unit,score\n" + "\n".join(rows), encoding="utf-8")
    line = ("prune", place / "toy.onnx", "--ratio", 0.3, "--data", place / "ids.npz", "--dry-run", "--json")
    options = ("--units", "neurons", "--multiple-of", "neurons=1", *CPU_ONLY)
    document = command(*line, *options, "--scores", path).document
    gone = document["choice"]["selection"]["heads"]
    assert gone and all(key.startswith("ffn.") for key in gone)
    for units in gone.values():
        assert units == list(range(20 - len(units), 20))
    path.write_text("site,unit,score\n" + "\n".join(rows[:8]), encoding="utf-8")
    outcome = command(*line, *options, "--scores", path)
    assert outcome.exit_code == 2
    assert "have none for the neurons of ffn.0" in outcome.document["error"]
    assert "--units heads,neurons" in outcome.document["error"]


@pytest.mark.slow
def test_a_method_in_prune_is_score_and_then_prune(command: Command, place: Path) -> None:
    model, data = place / "toy.onnx", ("--data", place / "ids.npz")
    for method in ("taylor", "weight"):
        scores = place / f"{method}.json"
        assert command("score", model, "--method", method, *data, "-o", scores, *CPU_ONLY).exit_code == 0
        line = ("prune", model, "--ratio", 0.375, *data, "--dry-run", "--json", *CPU_ONLY)
        one, two = (command(*line, *way) for way in (("--method", method), ("--scores", scores)))
        assert one.document["choice"]["selection"] == two.document["choice"]["selection"]
        assert f"scores ({method})" in one.document["choice"]["selection"]["basis"]


WRONG = (
    (("--method", "taylor"), "--method requires --ratio"),
    (("--ratio", 0.5, "--method", "taylor"), "--method requires --data"),
    (("--ratio", 0.5, "--method", "weight", "--scores", "x"), "--scores and --method are mutually exclusive"),
    (
        ("--ratio", 0.5, "--method", "taylor", "--units", "layers"),
        "layers are removed as a whole, so they have none",
    ),
)


@pytest.mark.parametrize(("words", "why"), WRONG)
def test_what_makes_no_sense_is_refused(command: Command, place: Path, words: Any, why: str) -> None:
    data = () if "requires --data" in why else ("--data", place / "ids.npz")
    outcome = command("prune", place / "toy.onnx", *words, *data, "--dry-run")
    assert outcome.exit_code == 2 and why in " ".join(outcome.stderr.split())
    if "--units" in words:
        line = ("score", place / "toy.onnx", "--units", "layers")
        assert why in " ".join(command(*line).stderr.split())


@pytest.mark.slow
@pytest.mark.usefixtures("short_clocks")
def test_a_sweep_goes_by_a_method(place: Path) -> None:
    found = {}
    for method in ("weight", "taylor"):
        curve = ohp.sweep(
            place / "toy.onnx", (0.0, 0.5), data=str(place / "ids.npz"), method=method, provider="cpu"
        )
        found[method] = {key: list(heads) for key, heads in curve.points[1].heads.items()}
    assert all(sum(map(len, heads.values())) == 4 for heads in found.values())
    assert found["taylor"] != found["weight"]


@pytest.mark.slow
def test_score_prints_blocks_and_a_picture_of_heads_alone(command: Command, place: Path) -> None:
    line = ("score", place / "toy.onnx", "--units")
    both = command(*line, "heads,neurons", "--heatmap", place / "heat.svg")
    assert "heads and neurons scored by weight" in both.stdout and "ffn.1" in both.stdout
    assert "low to high score" in both.stdout and (place / "heat.svg").is_file()
    alone = command(*line, "neurons")
    assert "neurons scored by weight" in alone.stdout and "worth little" not in alone.stdout
    refused = command(*line, "neurons", "--heatmap", place / "heat.svg")
    assert refused.exit_code == 2 and "plot of heads" in refused.stderr
    document = command(*line, "neurons", "--json").document
    assert [site["key"] for site in document["sites"]] == ["ffn.0", "ffn.1"]
