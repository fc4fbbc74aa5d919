"""From selected heads to the cut to write: refit, training, plan and drift."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxheadprune.attention.specs import HeadSpec, resolve_units
from onnxheadprune.choosing.activations.parts import run_feed
from onnxheadprune.choosing.compensation.record import Compensation, Refit
from onnxheadprune.choosing.space import AFTER_REFIT, NAMED, Selection
from onnxheadprune.data.drift import EffectMeter
from onnxheadprune.model.graph.main_output import require_main_output
from onnxheadprune.model.storage.reading import hydrated
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.generate import narrowed
from onnxheadprune.workflow.choice.chosen import Chosen
from onnxheadprune.workflow.choice.cutting import Cutter

if TYPE_CHECKING:
    from onnxheadprune.training.budget import Budget
    from onnxheadprune.training.result import Recovery

NOT_WRITTEN = "measured drift after trial refits, none of which could be written"
"""The basis of a choice whose refit left all weights unchanged."""
BEHIND = 4.0
"""The time to measure, prove and write a trained cut, as a multiple of that to measure one."""


def named(cutter: Cutter, heads: HeadSpec) -> Chosen:
    """The heads given by the user, with refitted weights."""
    return completed(cutter, Selection(resolve_units(heads, cutter.sites), NAMED))


def completed(cutter: Cutter, selection: Selection, among: int = 1) -> Chosen:
    """A selection with its compensation, its recovery, its plan and its drift."""
    began, budget = time.monotonic(), cutter.budget
    chosen = _refitted(cutter, selection)
    if budget is None:
        return _measured(cutter, chosen)
    budget = budget if among == 1 else budget.shared(among)
    return _recovered(cutter, chosen, budget, time.monotonic() - began)


def _refitted(cutter: Cutter, selection: Selection) -> Chosen:
    """A selection with its compensation, planned."""
    compensation = cutter.given
    if compensation is None and cutter.refit:
        compensation = _compensated(cutter, selection)
        if compensation.refits and not compensation.done:
            selection = replace(selection, basis=selection.basis.replace(AFTER_REFIT, NOT_WRITTEN))
    return cutter.planned(Chosen(selection, compensation))


def _recovered(cutter: Cutter, start: Chosen, budget: Budget, refitting: float) -> Chosen:
    """A cut after training; without training if that is nearer to the original on unseen data.

    Without a recovery, the refit to write learns from all data, which can help more than training where data is scarce.
    But then it has used the data to judge by; see `_at_best`. Without time for another refit,
    the first one is compared.
    """
    assert cutter.learn is not None and cutter.held is not None
    began = time.monotonic()
    before = _measured(cutter, start)
    behind = BEHIND * (time.monotonic() - began)
    budget = budget.keeping(behind)
    recovery = _recovery(cutter, start, budget)
    made = None
    if recovery.best:
        made = _measured(cutter, cutter.planned(replace(start, recovery=recovery)))
        assert made.drift is not None and before.drift is not None
        if made.drift <= _at_best(cutter, before.drift, 0.0):
            return made
    late = budget.call is not None and (budget.left or 0.0) < refitting
    plain, why = before, "no step made it better on held-out data"
    if not (late or cutter.must_hold_out or cutter.given is not None):
        alone = cutter.on_all_data()
        plain = _measured(alone, _refitted(alone, start.selection))
    if made is not None:
        assert made.drift is not None and before.drift is not None
        without, by = before.drift, "by"
        if plain is not before:
            without = _at_best(cutter, without, drift(cutter, plain, _samples(cutter)).mean())
            by = "by as little as"
        # What is no number is not near.
        if made.drift <= without:
            return made
        why = f"on held-out data outputs would drift by {made.drift:.3g} with it, and {by} {without:.3g} without"
    return replace(plain, recovery=replace(recovery, rejected=why))


def _at_best(cutter: Cutter, unseen: float, seen: float) -> float:
    """A lower bound of the drift of a refit on all data, from held-out data that it has seen.

    With more data the error of a refit falls towards a limit, by one over the number of samples. The limit is at least
    the error on samples that were learned from.

    Args:
        cutter: holds the samples to learn from and those that are held out.
    """
    assert cutter.learn is not None and cutter.held is not None
    learned, held = cutter.learn.count, cutter.held.count
    return (learned * unseen + held * seen) / (learned + held)


def _measured(cutter: Cutter, chosen: Chosen) -> Chosen:
    """A planned cut with its drift."""
    if cutter.held is None:
        return chosen
    cutter.progress("measuring drift", 0, 0)
    meter = drift(cutter, chosen, _samples(cutter))
    given = cutter.given
    # A refit that was made before may have learned from what is held out now.
    unseen = cutter.is_held_out and (
        given is None or cutter.data is None or given.data != cutter.data.fingerprint
    )
    chosen = replace(chosen, drift=meter.mean(), unit=meter.name, held_out=unseen)
    return _worth_it(cutter, chosen)


def _samples(cutter: Cutter) -> Sequence[Sample]:
    """Return the samples for the drift of a choice."""
    assert cutter.held is not None
    return cutter.held.batches if cutter.is_held_out else cutter.work.to_run(cutter.held).batches


def _compensated(cutter: Cutter, selection: Selection) -> Compensation:
    """The refit of a selection, in which layers replace removed sublayers only if that lowers the drift.

    A replacement fits the stream after the removed sublayers to the original's, which overwrites features of
    the stream before them that later layers may need more.
    """
    assert cutter.held is not None
    found = cutter.compensation(selection.heads)
    standing = [item for item in found.refits if item.stands_in]
    if not standing:
        return found
    bare = cutter.compensation(selection.heads, "behind")
    one, other = (
        drift(cutter, cutter.planned(Chosen(selection, item)), cutter.held.batches).mean()
        for item in (found, bare)
    )
    if one < other:
        return found
    why = f"outputs would drift by {one:.3g} with it, and drift by {other:.3g} without"
    skipped = (
        Refit(item.node, None, None, 0.0, 0.0, f"it does not stand in for {', '.join(item.stands_in)}: {why}")
        for item in standing
    )
    return replace(bare, refits=(*skipped, *bare.refits))


def _worth_it(cutter: Cutter, chosen: Chosen) -> Chosen:
    """The choice without its refit, where rounding to few quantized values makes the refit harmful.

    Each output of a layer is refitted only if held-out rows gain by it, but the rounding errors of many layers together
    can exceed the gain.
    """
    refit = chosen.compensation
    if refit is None or not refit.quantized or chosen.recovery is not None or cutter.given is not None:
        return chosen
    assert cutter.held is not None and chosen.drift is not None
    bare = cutter.planned(Chosen(chosen.selection))
    apart = drift(cutter, bare, cutter.held.batches).mean()
    if chosen.drift <= apart:
        return chosen
    return replace(bare, drift=apart, unit=chosen.unit, held_out=chosen.held_out, given_up=chosen.drift)


def _recovery(cutter: Cutter, chosen: Chosen, budget: Budget) -> Recovery:
    """Return a cut after training."""
    from onnxheadprune.training.recover import Subject, recover

    assert cutter.learn is not None and cutter.held is not None and chosen.plan is not None
    cut = cutter.cut(chosen)
    subject = Subject(
        cutter.view,
        require_main_output(cutter.view, chosen.io.changed),
        hydrated(cut.proto, cut.sources),
        chosen.plan,
        chosen.io,
        {} if chosen.compensation is None else chosen.compensation.stored,
    )
    return recover(
        subject, cutter.learn, cutter.held, cutter.provider, cutter.request.call, budget, cutter.progress
    )


def drift(cutter: Cutter, chosen: Chosen, samples: Sequence[Sample]) -> EffectMeter:
    """The drift of the outputs, measured as by `validate`, with the same main output and exact settings."""
    assert cutter.data is not None
    meter = EffectMeter(
        require_main_output(cutter.view, chosen.io.changed), cutter.data.inputs, cutter.request.call.drift
    )
    pruned = cutter.session(cutter.cut(chosen), "the pruned model")
    for sample in samples:
        before = run_feed(cutter.original_session, sample.feed, cutter.data.source)
        # A cache in the data is as wide as the original's.
        after = run_feed(pruned, narrowed(sample.feed, chosen.io), cutter.data.source)
        meter.add(before, after, sample.feed)
    cutter.turns.rest()
    return meter
