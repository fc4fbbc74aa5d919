"""How a training ends: well, interrupted, in numbers that are none, or gone on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxheadprune import UsageError, prune
from onnxheadprune.training.checkpoint import beside
from tests.graphs import toys
from tests.training.trainings import EPOCHS, Stop, drift, trained


def test_an_interrupt_keeps_the_best_so_far(tmp_path: Path) -> None:
    found = trained(tmp_path / "out.onnx", progress=Stop(KeyboardInterrupt, 8))
    assert found.stopped == "interrupted" and found.steps == 8 and found.best == 6
    assert (tmp_path / "out.onnx").exists()


def test_an_interrupt_before_anything_is_known_ends_the_call() -> None:
    def stop(what: str, done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(refit=True, progress=stop)


def test_a_loss_that_is_no_number_ends_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxheadprune.training.rate.RATES", (1e30,))
    found = trained()
    assert found.stopped is not None and found.stopped.startswith("the loss of step 2 is")
    assert found.best == 0 and found.stored == {}


def test_where_no_step_is_better_the_start_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxheadprune.training.rate.RATES", (3.0,))
    found = trained()
    assert found.best == 0 and found.after == found.before < found.curve[-1].loss


@pytest.mark.slow
@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize(("count", "epochs", "kept"), [(40, 6, False), (40, 30, True), (384, 6, True)])
def test_a_recovery_is_never_worse_than_none(count: int, epochs: int, refit: bool, kept: bool) -> None:
    """Where data is scarce, a few epochs lose against a refit on all data, and many win.

    Of 24 samples four judge, which may take a worse model for a better one.
    """
    feeds = [feed for seed in range(8) for feed in toys.sentences(seed=seed)][: count // 8]
    model, seen = (
        toys.encoder(),
        {"data": feeds, "refit": refit, "provider": "cpu", "validate": False},
    )
    plain = prune(model, ratio=0.375, **seen)
    made = prune(model, ratio=0.375, recover=epochs, **seen)
    assert plain.chosen is not None and made.chosen is not None and made.chosen.recovery is not None
    found = made.chosen.recovery
    assert found.samples + found.held_out == count and found.samples >= 16
    assert plain.chosen.selection.heads == made.chosen.selection.heads
    document = made.to_dict()["choice"]
    if found.rejected is None:
        assert made.chosen.held_out and "neither refit nor training has seen" in document["drift_measured_on"]
    else:
        assert made.model == plain.model and made.chosen.drift == plain.chosen.drift
        assert "calibration data" in document["drift_measured_on"]
    assert document["recovery"]["rejected"] == found.rejected
    unseen = toys.sentences(count=400, seed=99)
    is_nearer = drift(made.model, unseen) < 0.95 * drift(plain.model, unseen)
    assert (found.rejected is None) == is_nearer == (kept or not refit)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.onnx", tmp_path / "parts.onnx"
    trained(whole)
    with pytest.raises(MemoryError):
        trained(parts, progress=Stop(MemoryError, 8))
    assert beside(parts).exists() and not parts.exists()
    found = trained(parts, resume=True)
    assert found.resumed == 6 and found.steps == 3 * EPOCHS
    assert parts.read_bytes() == whole.read_bytes() and not beside(parts).exists()


def test_another_training_is_not_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    with pytest.raises(UsageError, match="nothing to resume"):
        trained(out, resume=True)
    with pytest.raises(MemoryError):
        trained(out, progress=Stop(MemoryError, 8))
    with pytest.raises(UsageError, match="is of another model, other data, another budget or another seed"):
        trained(out, resume=True, seed=3)
    beside(out).write_bytes(beside(out).read_bytes()[:-200])
    with pytest.raises(UsageError, match="cannot be read"):
        trained(out, resume=True)
