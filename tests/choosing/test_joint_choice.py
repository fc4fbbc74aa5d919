"""Heads, neurons and layers under one budget: the knapsack is exact, the path is the surgeon's, the budget is kept."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxheadprune as ohp
from onnxheadprune import Comparison, GridPoint, Ratio, RefusedError
from onnxheadprune.attention.sites.site import Site, outermost
from onnxheadprune.benchmarking.result import SpeedUp
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.allocate import Savings
from onnxheadprune.choosing.scoring.moves import Step
from onnxheadprune.choosing.scoring.reconstruction import Surgeon, wide_path
from onnxheadprune.choosing.space import FINE, PARTS, ROUNDING, SearchSpace
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.workflow.choice.latency import Width, with_times
from tests.conftest import SAMPLES, Command


def _space(rng: np.random.Generator, *, nested: bool = False) -> SearchSpace:
    """Three sites whose paths have random costs; the first two may lie in a layer with something else."""
    each = {0: 3.0, 1: 1.0, 2: 5.0, 3: 25.0}
    sites = [_site(index, units) for index, units in enumerate((4, 6, 3))]
    sites[2:2] = [_site(3, 1, tuple(sites[:2]))] if nested else []
    paths: dict[int, list[Step]] = {}
    for site in sites:
        costs = np.cumsum(rng.uniform(0.1, 1 + 4 * bool(site.parts), site.num_units))
        paths[site.index] = [Step(frozenset(range(n + 1)), float(costs[n])) for n in range(site.num_units)]
    savings = {site.index: Savings.evenly(site.num_units, each[site.index]) for site in sites}
    whole = sum(savings[site.index].of(site.num_units) for site in outermost(sites))
    return SearchSpace(tuple(sites), paths, savings, whole, "test")


def _site(index: int, units: int, parts: tuple[Site, ...] = ()) -> Site:
    return Site(
        index=index,
        name="",
        num_units=units,
        original_num_units=units,
        groups=(),
        projections=(),
        cores=(),
        parts=parts,
    )


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_knapsack_is_exact(seed: int, nested: bool) -> None:
    """Of all combinations of steps; with a layer none goes of what is inside."""
    space = _space(np.random.default_rng(seed), nested=nested)
    every = [
        steps
        for steps in itertools.product(*([None, *space.paths[site.index]] for site in space.sites))
        if not (nested and steps[2] and (steps[0] or steps[1]))
    ]
    everything = max(_pieces(space, steps) for steps in every)
    taken = set()
    for count in (1, 40, 97, 150, space.most()):
        got = space.removing(count)
        fitting = [
            sum(step.error for step in steps if step)
            for steps in every
            if _pieces(space, steps) >= min(count * FINE, everything)
        ]
        assert sum(got.costs.values()) == pytest.approx(min(fitting))
        saved = sum(space.savings[index].of(len(units)) for index, units in got.heads.items())
        assert saved >= space.whole * count / PARTS * (1 - 1e-9)
        assert not (3 in got.heads and {0, 1} & got.heads.keys())
        taken |= got.heads.keys()
    assert taken >= {2, 3} if nested else taken == {0, 1, 2}


def _speed(*ratios: tuple[float, float, float], floor: float) -> SpeedUp:
    cells = []
    for batch, (low, value, high) in enumerate(ratios, 1):
        ratio = Ratio(value, low, high)
        cells.append((GridPoint(batch), Comparison(ratio, floor, ratio.judged(floor), None)))
    return SpeedUp(tuple(cells), Provider(CPU, "test"))


@pytest.mark.first_case
@pytest.mark.parametrize("seed", range(20))
def test_noise_removes_no_option(seed: int) -> None:
    """Whatever a busy machine measures, of some sites or of all, everything that can go still can."""
    rng = np.random.default_rng(seed)
    space = _space(rng)
    widths, measured = [], []
    for site in space.sites:
        hidden = rng.random() < 0.7
        for step in space.paths[site.index][:: rng.integers(1, 3)] + space.paths[site.index][-1:]:
            value = float(rng.uniform(0.8, 1.6) if hidden else rng.uniform(0.3, 0.9))
            spread = 3.0 if hidden else 1.02
            widths.append(((site,), Width({site.index: step})))
            measured.append(_speed((value / spread, value, value * spread), floor=0.3 if hidden else 0.01))
    timed = with_times(space, widths, measured)
    largest = timed.removing(timed.most())
    assert largest.count == space.removing(space.most()).count == 13
    counts = [timed.removing(count).count for count in range(1, timed.most() + 1)]
    assert len(set(counts)) > 5
    if all(speed.value <= 1 for speed in measured):
        assert [space.removing(at).heads for at in (50, 120)] == [
            timed.removing(at).heads for at in (50, 120)
        ]


@pytest.mark.parametrize("wanted", [1.1, 1.5, 3.0])
def test_a_machine_that_is_too_busy_is_no_slow_model(wanted: float) -> None:
    busy = _speed((0.2, 0.9, 2.0), floor=0.4)
    assert busy.value == 1 and busy.is_too_noisy(wanted)
    assert not busy.is_too_noisy(9.0), "nine times would show"
    assert not _speed((0.97, 0.99, 1.01), floor=0.01).is_too_noisy(wanted)
    assert not _speed((0.2, 0.9, 2.0), (0.98, 0.99, 1.0), floor=0.01).is_too_noisy(wanted), (
        "one size is known"
    )


def test_time_that_is_not_saved_is_not_paid_for() -> None:
    """Where narrower neurons are no faster, a budget of time takes other units."""
    space = _space(np.random.default_rng(0))
    flat = {**space.savings, 2: Savings((0, 2, 3), (0.0, 0.0, 1e-6))}
    timed = replace(space, savings=flat, whole=sum(curve.saved[-1] for curve in flat.values()))
    assert 2 in space.removing(100).heads and 2 not in timed.removing(100).heads
    # A curve with a knee: the second and third unit save nothing, the fourth half of the site.
    knee = {**space.savings, 0: Savings((0, 1, 3, 4), (0.0, 6.0, 6.0, 12.0))}
    for count in range(1, 150):
        chosen = replace(space, savings=knee).removing(count).heads.get(0, ())
        assert len(chosen) not in (2, 3)


def _pieces(space: SearchSpace, steps: Any) -> int:
    """Whole pieces that some steps save, one per site or none."""
    saved = (
        int(space.savings[site.index].of(len(step.removed)) / space.whole * PARTS * FINE + ROUNDING)
        for site, step in zip(space.sites, steps, strict=True)
        if step
    )
    return sum(saved)


def test_more_than_there_is_is_refused() -> None:
    space = _space(np.random.default_rng(0))
    with pytest.raises(RefusedError, match="can go"):
        space.removing(PARTS + 1)


def test_the_surgeon_knows_what_one_more_channel_costs() -> None:
    """`errors` of all channels at once are `error` of each alone, also after some are gone."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 9)) @ rng.standard_normal((9, 9))
    surgeon = Surgeon(np.cov(x.T, bias=True), rng.standard_normal((9, 4)))
    for gone in ([], [2, 5]):
        if gone:
            surgeon.remove(gone)
        alone = [surgeon.error([int(channel)]) for channel in surgeon.left]
        np.testing.assert_allclose(surgeon.errors(), alone, rtol=1e-8)


@pytest.mark.slow
def test_a_path_ends_where_a_refit_from_scratch_does(digits: Path) -> None:
    """The error along the path is the error of the best linear map of what is left, within the damping."""
    from onnxheadprune.choosing.activations.contexts import projection_matrix

    (block, *_) = ohp.inspect(digits).neurons
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4000, block.num_units)) @ rng.standard_normal((block.num_units,) * 2)
    moments = Moments(block.num_units)
    moments.add(x.astype(np.float32))
    weight = projection_matrix(block.projections[0])
    path = wide_path(block, [moments], 16)
    assert [block.num_units - len(step.removed) for step in path] == list(range(112, 15, -16))
    target = (x - x.mean(0)) @ weight
    for step in path:
        left = [n for n in range(block.num_units) if n not in step.removed]
        centred = x[:, left] - x[:, left].mean(0)
        refit = np.linalg.lstsq(centred, target, rcond=None)[0]
        error = np.square(target - centred @ refit).sum() / np.square(target).sum()
        assert step.error == pytest.approx(error, rel=0.15, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("units", ["heads,neurons", "all"])
def test_half_of_the_operations_go(
    command: Command, digits: Path, digits_calibration: Path, digits_test: Path, tmp_path: Path, units: str
) -> None:
    out = tmp_path / "out.onnx"
    words = ("--ratio", "0.5", "--units", units, "--data", digits_calibration, "--provider", "cpu", "--json")
    result = command("prune", digits, "-o", out, *words)
    assert result.exit_code == 0, result.stderr
    document = result.document
    assert document["validation"]["verdict"] == "passed"
    blocks, left = _operations(command, digits), _operations(command, out)
    assert left <= 0.52 * blocks
    assert all(cut["neurons_left"] % 8 == 0 for cut in document["plan"]["neurons"])
    before, after = _accuracy(digits, digits_test), _accuracy(out, digits_test)
    assert before - after <= 0.01, f"{before:.4f} -> {after:.4f}"


def _operations(command: Command, model: Path) -> int:
    """Operations per token of the maps of all blocks."""
    found = command("inspect", model, "--json").document
    return sum(site["flops_per_token"] for kind in ("sites", "feed_forward") for site in found[kind])


def _accuracy(model: Path, data: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    arrays = np.load(data)
    name = session.get_inputs()[0].name
    (logits,) = session.run(None, {name: arrays[name]})
    return float((np.asarray(logits).argmax(1) == arrays["labels"]).mean())


@pytest.mark.slow
def test_a_speed_up_is_bought_with_measured_time(tmp_path: Path) -> None:
    """The sample's narrow maps are timed in place, heads and neurons of one shape together."""
    told: list[str] = []
    made = ohp.prune(
        SAMPLES / "digits_vit.onnx",
        tmp_path / "fast.onnx",
        target_speedup=1.05,
        units=frozenset({"heads", "neurons"}),
        data=str(SAMPLES / "digits_calibration.npz"),
        provider="cpu",
        progress=lambda what, done, total: told.append(f"{what} {done}/{total}"),
    )
    assert made.chosen is not None and made.chosen.speed is not None
    assert made.chosen.selection.basis == "measured drift after refit, over the time saved"
    # Two shapes of sites, four widths of each.
    assert "timing sites of one shape at one width 8/8" in told
    assert made.chosen.speed.reaches(1.05)
