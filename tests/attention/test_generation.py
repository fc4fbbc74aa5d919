"""Decoders inside BeamSearch and its relatives: all sites are found, and equal cuts of all layers are exact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxheadprune import inspect, plan_pruning
from onnxheadprune.attention.planning import analyse
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.errors import RefusedError
from tests.conftest import Outcome
from tests.liveness.one_node import run
from tests.toys_generation import HEADS, LAYERS, generator

FEED = {"input_ids": np.array([[3, 5, 7], [2, 9, 4]], np.int32)}
GENERATORS = ["GreedySearch", "BeamSearch", "Sampling"]


@pytest.mark.parametrize("op_type", GENERATORS)
def test_every_layer_is_a_site(op_type: str) -> None:
    sites = inspect(generator(op_type))
    assert [(site.num_heads, site.removable) for site in sites] == [(HEADS, True)] * LAYERS
    assert not sites.near_misses and not sites.no_heads


@pytest.mark.parametrize("op_type", GENERATORS)
def test_equal_cuts_are_exact(op_type: str) -> None:
    """Heads may differ between layers, not their number."""
    model = generator(op_type)
    plan = plan_pruning(model, heads="0:1 1:2")
    assert not plan.edge_gathers and not plan.io_changes
    want = run(generator(op_type, {0: (1,), 1: (2,)}), FEED)["sequences"]
    assert not np.array_equal(want, run(model, FEED)["sequences"])
    np.testing.assert_array_equal(run(apply_plan(plan, model), FEED)["sequences"], want)


def test_unequal_cuts_are_refused_with_the_reason() -> None:
    with pytest.raises(
        RefusedError, match=r"one head count for the caches of all layers.*remove equally many"
    ):
        plan_pruning(generator(), heads="0:1")


def test_a_layer_that_goes_as_a_whole_keeps_its_cache() -> None:
    model = generator()
    want = run(generator(silent={0: range(HEADS)}), FEED)["sequences"]
    got = run(apply_plan(plan_pruning(model, heads={0: range(HEADS)}), model), FEED)["sequences"]
    np.testing.assert_array_equal(got, want)


def test_copies_of_a_decoder_share_their_caches() -> None:
    """The prompt is read by a copy of its own."""
    model = generator(init=True)
    with pytest.raises(RefusedError, match="the same heads"):
        plan_pruning(model, heads="0:1 1:1 2:2 3:2")
    planning = analyse(model, "*:1", "generator")
    want = run(generator(silent={0: (1,), 1: (1,)}, init=True), FEED)["sequences"]
    np.testing.assert_array_equal(run(apply_plan(planning.plan, model), FEED)["sequences"], want)


def test_the_command_line_proves_it(tmp_path: Path, command: Callable[..., Outcome]) -> None:
    source = tmp_path / "gpt2.onnx"
    onnx.save(generator("BeamSearch"), source)
    done = command("prune", source, "-o", tmp_path / "pruned.onnx", "--heads", "*:0", "--json")
    assert done.exit_code == 0, done.stderr
    assert done.document["validation"]["verdict"].startswith("passed")
