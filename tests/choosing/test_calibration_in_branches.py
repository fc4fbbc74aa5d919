"""Targets with data where layers lie in the branches of an If: each is looked at on the samples that run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from onnxheadprune import RefusedError, UsageError, prune, score, select_heads, validate
from onnxheadprune.attention.main_graph_copy import main_graph_copy
from onnxheadprune.attention.sites.find import Analysis, analysis_of
from onnxheadprune.choosing.activations.contexts import context_moments
from onnxheadprune.choosing.activations.parts import Running
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.edit.bodies import counts_where
from onnxheadprune.edit.model_records import EXITS_ENTRY
from onnxheadprune.model.load import open_structure
from onnxheadprune.runtime import CPU, Provider
from tests.conftest import Outcome
from tests.graphs import exits, toys
from tests.liveness.one_node import run

HERE = Provider(CPU, "a test")
FORMS: dict[str, Callable[[], ModelProto]] = {
    **{name: make for name, make in exits.FORMS.items() if not name.endswith("loop")},
    "skipping": exits.skipping,
}


def _feeds(count: int, least: float, most: float) -> list[dict[str, Any]]:
    """Sequences, and how sure to be about each of them."""
    random = np.random.default_rng(3)
    return [
        {
            "x": random.uniform(-1, 1, (2, 9, exits.WIDTH)).astype(np.float32),
            "sure": np.array(sure, dtype=np.float32),
        }
        for sure in np.linspace(least, most, count)
    ]


def _beside(model: ModelProto) -> Analysis:
    found = main_graph_copy(open_structure(model))
    assert found is not None
    return analysis_of(found.proto, "the model")


@pytest.mark.parametrize(
    "entry", ["no JSON", "[[1, true]]", '[["no value", true]]', '[["x", true]]', "[" * 99_999]
)
def test_conditions_of_a_file_are_none(entry: str) -> None:
    model = toys.attention()
    for node in model.graph.node:
        node.metadata_props.add(key="onnxheadprune.counts_where", value=entry)
    (site,) = analysis_of(model, "the model").sites
    assert counts_where(site.projections[0].node) == ()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_both_branches_beside_each_other_give_what_the_one_gives(form: str) -> None:
    model = FORMS[form]()
    beside = _beside(model)
    for sure in (0.3, 0.45, 0.5, 0.55, 0.6, 2.0):
        feed = exits.feed(sure)
        want, got = run(model, feed), run(beside.model, feed)
        for name, array in want.items():
            np.testing.assert_array_equal(got[name], array)


def test_a_layer_counts_on_the_samples_that_run_it() -> None:
    """Moments are those of the model that really takes its branches, feed by feed."""
    beside = _beside(exits.nested())
    feeds = _feeds(12, 0.8, 1.2)
    data = calibration_data(feeds, beside.view)
    found = context_moments(beside.view, beside.sites.sites, data, HERE)
    conditions = [counts_where(site.projections[0].node) for site in beside.sites]
    assert [len(item) for item in conditions] == [0, 1, 2]
    reached = [0, 0, 0]
    for feed in feeds:
        names = [name for name, _ in conditions[2]]
        copy = ModelProto()
        copy.CopyFrom(beside.model)
        copy.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BOOL, None) for name in names
        )
        seen = run(copy, feed)
        for site, wanted in enumerate(conditions):
            reached[site] += all(bool(seen[name]) == answer for name, answer in wanted)
    assert [found[site.index][0].count for site in beside.sites] == [18 * number for number in reached]
    assert reached[0] > reached[1] > reached[2] > 0


@pytest.mark.slow
def test_without_conditions_every_sample_would_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above looks at can go wrong."""
    monkeypatch.setattr(Running, "reaches", lambda self, feed, node: True)
    with pytest.raises(AssertionError):
        test_a_layer_counts_on_the_samples_that_run_it()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["nested", "weights outside"])
def test_units_are_chosen_and_refitted_in_branches(form: str) -> None:
    model = FORMS[form]()
    feeds = _feeds(20, 0.3, 2.0)
    result = prune(model, ratio=0.3, units="heads,neurons", multiple_of={"neurons": 1}, data=feeds)
    assert result.validation is not None and result.validation.passed and result.validation.refitted
    assert result.chosen is not None and not result.chosen.unreached
    inner = {tensor.name for tensor in model.graph.initializer}
    refitted = set(result.validation.refitted)
    assert refitted - inner if form != "weights outside" else refitted <= inner
    assert validate(model, result.model, data=feeds).passed
    assert not EXITS_ENTRY.read(result.model)


@pytest.mark.slow
def test_what_no_sample_runs_is_left_alone_and_named() -> None:
    result = prune(exits.nested(), ratio=0.2, data=_feeds(12, 0.3, 0.31))
    assert result.chosen is not None
    assert result.chosen.unreached == ("attn.1 (l1)", "attn.2 (l2)", "ffn.1 (l1)", "ffn.2 (l2)")
    assert set(result.plan.removed) == {0}
    with pytest.raises(RefusedError, match="only 3 can go"):
        prune(exits.nested(), ratio=0.5, data=_feeds(12, 0.3, 0.31))


@pytest.mark.slow
def test_a_refitted_tensor_in_a_body_that_was_damaged_is_seen() -> None:
    model = exits.nested()
    pruned = prune(model, ratio=0.3, data=_feeds(20, 0.3, 2.0)).model
    names = set(validate(model, pruned).refitted)
    (choice,) = [node for node in pruned.graph.node if node.op_type == "If"]
    body = next(item.g for item in choice.attribute if item.name == "then_branch")
    tensor = next(item for item in body.initializer if item.name in names)
    tensor.raw_data = bytes(len(tensor.raw_data))
    found = validate(model, pruned)
    assert found.verdict == "failed" and "is damaged" in found.reason


@pytest.mark.slow
def test_scores_of_branches_and_where_there_are_none() -> None:
    model = exits.nested()
    methods: tuple[str, ...] = ("reconstruction", "ablation")
    for method in methods:
        scores = score(model, method=method, data=_feeds(12, 0.3, 2.0))
        assert len(scores.sites) == 3
        assert all(value is not None and value >= 0 for site in scores.sites for value in site.scores)
    with pytest.raises(UsageError, match=r"runs attn.1 \(l1\), attn.2 \(l2\)"):
        score(model, data=_feeds(12, 0.3, 0.31))
    assert select_heads(model, ratio=0.25, data=_feeds(12, 0.3, 2.0)).count == 3


def test_what_is_not_measured_on_branches_is_refused_with_the_way_out() -> None:
    model, feeds = exits.nested(), _feeds(12, 0.3, 2.0)
    with pytest.raises(RefusedError, match="make an exit permanent with exit="):
        prune(model, target_speedup=1.1, data=feeds)
    with pytest.raises(RefusedError, match="inside the body of a control-flow operator"):
        prune(exits.loop(), ratio=0.25, data=feeds)


@pytest.mark.slow
def test_an_exit_is_taken_before_anything_is_chosen() -> None:
    result = prune(exits.nested(), exit=2, max_drift=0.5, data=_feeds(20, 0.3, 2.0))
    assert result.validation is not None and result.validation.passed
    assert result.plan.exit is not None and result.plan.removed and set(result.plan.removed) <= {0, 1}


@pytest.mark.slow
def test_what_is_refitted_behind_a_mask_may_have_lain_in_a_branch() -> None:
    feeds = _feeds(20, 0.3, 2.0)
    result = prune(exits.nested(), heads={"0": [1], "1": [2]}, exit=2, refit=True, data=feeds)
    assert result.validation is not None and result.validation.passed
    assert {name.split(".")[0] for name in result.validation.refitted} >= {"l0", "l1"}


@pytest.mark.slow
def test_layers_in_branches_can_be_trained() -> None:
    feeds = _feeds(40, 0.3, 2.0)
    result = prune(exits.nested(), ratio=0.25, data=feeds, recover=1)
    assert result.chosen is not None and result.chosen.recovery is not None
    assert result.validation is not None and result.validation.passed


@pytest.mark.slow
def test_the_command_says_what_no_sample_runs(command: Callable[..., Outcome], tmp_path: Path) -> None:
    path, data = tmp_path / "model.onnx", tmp_path / "data.npz"
    onnx.save(exits.nested(), path)
    np.savez(data, x=exits.samples(16)["x"], sure=np.array(0.3, dtype=np.float32))
    words = ("--ratio", "0.2", "--data", data, "-o", tmp_path / "out.onnx")
    done = command("prune", path, *words, "-v")
    assert done.exit_code == 0 and "no sample of the data runs these" in done.stdout
    told = json.loads(command("prune", path, *words, "--json").stdout)
    assert told["choice"]["unreached"][0] == "attn.1 (l1)"
