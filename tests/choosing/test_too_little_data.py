"""Too little data is said before the first pass, in the user's unit; what cannot be measured drops out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import RefusedError, UsageError, prune, score
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.choosing.activations.contexts import measurable
from onnxheadprune.data.calibration import Feeds, calibration_data
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.progress import Note
from onnxheadprune.settings.registry import METHODS, methods_of
from onnxheadprune.settings.units import NEURON
from tests.conftest import Command
from tests.graphs import toys

BOTH = frozenset({"heads", "neurons"})
INNER, CONTEXT = 20, 16
"""Inputs of the projections of the toy's feed-forward blocks, and of its widest attention."""
LENGTH = 4


def data(count: int, unit: str = "sample") -> Feeds:
    """Samples of 4 tokens, two a batch."""
    feeds = toys.ids(count // 2, 2, LENGTH) if count > 1 else toys.ids(1, 1, LENGTH)
    return Feeds(feeds, unit)


def chosen(count: int, **target: Any) -> Any:
    made = prune(toys.stack(), **target, data=data(count), provider="cpu", validate=False)
    return made.chosen


@pytest.mark.each_choice
@pytest.mark.parametrize("unit", ["sample", "line", "image"])
@pytest.mark.parametrize(
    "target", [{"ratio": 0.25}, {"keep": 3}, {"max_drift": 9.0}, {"ratio": 0.25, "units": BOTH}]
)
def test_too_little_for_all_is_said_once_and_before_the_first_pass(unit: str, target: dict[str, Any]) -> None:
    told: list[str] = []
    with pytest.raises(UsageError) as caught:
        prune(
            toys.stack(),
            **target,
            data=data(2, unit),
            provider="cpu",
            progress=lambda what, done, of: told.append(what),
        )
    message = str(caught.value)
    assert "site 1" not in message and f"more {unit}" in message and "of this length" in message
    assert "refit=True: a stronger ridge is used then, or biases alone are adjusted" in message
    assert not any(what.startswith(("reading contexts", "measuring what cuts cost")) for what in told)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_as_many_more_as_is_said_are_enough(count: int) -> None:
    with pytest.raises(UsageError) as caught:
        chosen(count, ratio=0.25)
    more = int(str(caught.value).split("about ")[1].split()[0])
    enough = count + more + (count + more) % 2
    assert (count + more) * LENGTH >= CONTEXT > (count + more - 1) * LENGTH
    assert chosen(enough, ratio=0.25).selection.count


@pytest.mark.slow
def test_blocks_that_cannot_be_scored_drop_out_with_the_reason() -> None:
    found = chosen(4, ratio=0.25, units=BOTH)
    left = found.selection.left_out
    assert set(found.selection.heads) <= {0, 1} and len(left) == 2
    assert all(
        "ffn" in label and f"{INNER} inputs: about 1 more sample of this" in why
        for label, why in left.items()
    )
    assert found.to_dict()["selection"]["left_out"] == left
    with pytest.raises(
        RefusedError, match=r"only 48.5% can go .*could not be measured: 4 samples with 16 positions"
    ):
        chosen(4, ratio=0.7, units=BOTH)
    assert not chosen(10, ratio=0.25, units=BOTH).selection.left_out


@pytest.mark.each_choice
@pytest.mark.parametrize("units", [{}, {"units": BOTH}], ids=["heads", "both"])
@pytest.mark.parametrize(
    "method",
    [None, *(name for name in methods_of(NEURON.scored_by) if METHODS[name].gives_shares)],
)
def test_a_share_that_cannot_go_without_them_is_refused_before_the_first_pass(
    units: dict[str, Any], method: Any
) -> None:
    told: list[str] = []
    model = toys.stack(heads=8, kv_heads=8)
    # The sites of one kind are not alike: 32 inputs, and 16.
    model = prune(model, heads={1: range(4)}, provider="cpu", validate=False).model
    with pytest.raises(
        RefusedError, match=r"can go .*more sample.* of this length (is|are) needed; .*refit=True"
    ):
        prune(
            model,
            ratio=0.9,
            method=method,
            **units,
            data=data(4),
            provider="cpu",
            progress=lambda what, done, of: told.append(what),
        )
    assert not any(what.startswith(("reading contexts", "measuring what cuts cost")) for what in told)


@pytest.mark.parametrize("method", ["reconstruction", "ablation", "taylor"])
def test_scores_need_as_many_positions_as_their_method(method: Any) -> None:
    if method != "reconstruction":
        assert score(toys.stack(), method=method, data=data(2), provider="cpu").method == method
        return
    with pytest.raises(
        UsageError, match="about 2 more samples of this length are needed; the methods ablation"
    ):
        score(toys.stack(), method=method, data=data(2), provider="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4, 30])
def test_named_heads_are_refitted_on_what_there_is(count: int) -> None:
    told: list[str] = []
    found = prune(
        toys.stack(),
        heads={0: [1]},
        refit=True,
        data=data(count, "line"),
        provider="cpu",
        progress=lambda what, done, of: told.append(what),
    ).chosen
    assert found is not None and found.compensation is not None
    limited = {item.node: item.limited for item in found.compensation.refits if item.limited}
    assert bool(limited) == (count < 30)
    notes = [at for at, what in enumerate(told) if isinstance(what, Note)]
    assert len(notes) == bool(limited)
    if limited:
        first = next(at for at, what in enumerate(told) if what.startswith("refitting"))
        assert notes[0] < first and "more line" in told[notes[0]]
    for item in found.compensation.refits:
        assert item.after <= item.before * (1 + 1e-9)
        if item.limited:
            assert item.strength is None or item.strength >= 0.3
            assert "a stronger ridge" in item.limited or "biases alone" in item.limited
    assert [item["limited"] for item in found.to_dict()["compensation"]["refits"] if item["limited"]] == list(
        limited.values()
    )


@pytest.mark.slow
def test_the_command_says_it_in_one_sentence(command: Command, tmp_path: Path) -> None:
    model, archive = tmp_path / "model.onnx", tmp_path / "few.npz"
    onnx.save(toys.stack(), model)
    np.savez(archive, **data(2)[0])
    failed = command("prune", model, "--ratio", 0.25, "--data", archive, "-o", tmp_path / "out.onnx")
    assert (
        failed.exit_code == 2
        and failed.stderr.count("more sample") == 1
        and not (tmp_path / "out.onnx").exists()
    )
    np.savez(archive, **{name: np.concatenate([feed[name] for feed in data(4)]) for name in data(4)[0]})
    options = (
        "--ratio",
        0.2,
        "--units",
        "heads,neurons",
        "--data",
        archive,
        "--provider",
        "cpu",
        "--dry-run",
    )
    shown = command("prune", model, *options)
    assert (
        shown.exit_code == 0
        and "left alone  ffn.0 (layer0) and 1 more: " in shown.stdout
        and "about 1 more sample" in shown.stdout
    )
    document = json.loads(command("prune", model, *options, "--json").stdout)
    assert len(document["choice"]["selection"]["left_out"]) == 2


def test_what_follows_from_the_tokens_needs_no_run() -> None:
    """A decoder has a position per token, so that too few are counted, not run."""
    analysis = analysis_of(LoadedModel.of(toys.stack(), "toy"))
    sites = tuple(analysis.sites)
    nowhere = Provider("NoExecutionProvider", "runs nothing")
    few, enough = (calibration_data(data(count), analysis.view) for count in (2, 40))
    with pytest.raises(UsageError, match="8 positions are too few for linear layers with"):
        measurable(analysis.view, sites, few, nowhere)
    assert measurable(analysis.view, sites, enough, nowhere) == (sites, {})


def test_progress_moves_with_the_runs() -> None:
    """No step of a choice stands for more than a tenth of what is measured."""
    told: list[tuple[str, int, int]] = []
    prune(
        toys.stack(),
        ratio=0.25,
        data=data(40),
        provider="cpu",
        validate=False,
        progress=lambda *step: told.append(step),
    )
    runs = [(done, of) for what, done, of in told if what == "measuring what cuts cost, block by block"]
    assert runs == sorted(runs) and runs[-1][0] == runs[-1][1]
    before = [0, *(done for done, _ in runs)]
    assert max(after - earlier for earlier, after in itertools.pairwise(before)) <= runs[-1][1] / 10
