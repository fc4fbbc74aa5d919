"""The report on how heads were selected and remaining weights refitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType

from onnxheadprune.choosing.compensation.result import Compensation
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.reporting.heatmap import Removed, Scores, heat_rows
from onnxheadprune.reporting.layout import bullet, many, row
from onnxheadprune.workflow.choice.chosen import Chosen


def choice_rows(chosen: Chosen | None, plan: PrunePlan) -> Iterator[RenderableType]:
    """The basis of the choice, the trials, the refits, the drift, and a heat map."""
    if chosen is None:
        return
    yield row("chosen by", chosen.selection.basis)
    for reason, names in by_reason(chosen.selection.constant).items():
        yield bullet(f"held constant: {first_of(names)}: {reason}", "yellow")
    yield from _left_alone(chosen)
    counted = "unit" if plan.others() else "head"
    for trial in chosen.trials:
        word = "meets the target" if trial.meets else "does not"
        unit = f" ({chosen.unit})" if trial.speed is None and chosen.unit else ""
        times = (
            f"{trial.measured:.3g}{unit}" if trial.speed is None else f"{trial.measured:.2f} times as fast"
        )
        yield bullet(f"{many(trial.removed, counted)}: {times}, {word}")
    if chosen.speed is not None:
        yield row("speed", f"{chosen.speed} on {chosen.speed.provider.label}")
    compensation = chosen.compensation
    if chosen.given_up is not None and chosen.drift is not None:
        text = f"a refit with the existing quantization scales would drift by {chosen.given_up:.3g}, without one it is"
        yield row("refitted", f"nothing: {text} {chosen.drift:.3g}")
    if compensation is not None:
        done = [item for item in compensation.refits if item.skipped is None]
        yield row("refitted", f"{many(len(done), 'linear layer')} on {many(compensation.samples, 'sample')}")
        yield from _stand_ins(compensation)
        for reason, nodes in _skipped(compensation).items():
            yield bullet(f"not {first_of(nodes)}: {reason}", "yellow")
        limited = {item.node: item.limited for item in compensation.refits if item.limited is not None}
        for reason, nodes in by_reason(limited).items():
            yield bullet(f"{first_of(nodes)}: {reason}", "yellow")
    yield from _recovery(chosen)
    if chosen.drift is not None:
        yield row("selection", f"drift {chosen.drift:.3g} ({chosen.unit}) on {chosen.measured_on}")
    if any(value is not None for values in chosen.selection.scores.values() for value in values):
        yield from heat_rows(*heat_of(chosen, plan))


def _left_alone(chosen: Chosen) -> Iterator[RenderableType]:
    """The sites that nothing is known of, with the reasons."""
    if chosen.selection.left_out:
        yield row("left alone", "these could not be measured and are left unchanged:", "yellow")
    for reason, names in by_reason(chosen.selection.left_out).items():
        yield bullet(f"{first_of(names)}: {reason}", "yellow")
    if chosen.unreached:
        yield row("left alone", "no sample of the data runs these, so they are left unchanged:", "yellow")
        for site in chosen.unreached:
            yield bullet(site, "yellow")


def _recovery(chosen: Chosen) -> Iterator[RenderableType]:
    """Yield what was trained."""
    found = chosen.recovery
    if found is None:
        return
    how = f"{found.epochs:.3g} epochs of {found.kind}, learning rate {found.rate:g}"
    how += "" if found.precision == "float32" else f", products in {found.precision}"
    trained = f"{many(len(found.trained), 'tensor')} in {many(found.steps, 'step')} ({how})"
    yield row("recovered", trained if found.rejected is None else f"nothing: {found.rejected}")
    if found.rejected is not None:
        yield bullet(f"tried: {trained}", "yellow")
        yield bullet(f"written: the weights without training{_refit_of(chosen)}", "yellow")
    refit = chosen.compensation
    own = f"refit: {many(refit.samples, found.unit)}; " if refit is not None and refit.samples else ""
    yield bullet(own + found.data_words)
    yield bullet(f"what would help most is {found.help_words}")
    if found.planned is not None and found.planned.call is not None:
        yield bullet(f"of {found.planned.call:g} s for the whole call, {found.seconds:.3g} s of training")
    worth = f"loss on {many(found.held_out, 'held-out sample')} {found.before:.3g} -> {found.after:.3g}"
    taken = f"of step {found.best}" if found.best else "of the start, since no step made it better"
    yield bullet(f"{worth}, {taken}", "" if found.best else "yellow")
    if found.stopped is not None:
        yield bullet(f"ended early: {found.stopped}", "yellow")
    for reason, names in by_reason(found.constant).items():
        yield bullet(f"not {first_of(names)}: {reason}", "yellow")


def _refit_of(chosen: Chosen) -> str:
    """Return what the refit that is written has learned from."""
    if chosen.compensation is None or not chosen.compensation.samples:
        return ""
    return f", refitted on {many(chosen.compensation.samples, 'sample')}"


def first_of(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def by_reason(constant: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of what is held constant, by the reason."""
    found: dict[str, list[str]] = {}
    for name, reason in constant.items():
        found.setdefault(reason, []).append(name)
    return found


def _stand_ins(compensation: Compensation) -> Iterator[RenderableType]:
    """The maps that stand in for sublayers which go."""
    for item in compensation.refits:
        if item.stands_in:
            error = f"held-out error of the stream behind {item.before:.3g} -> {item.after:.3g}"
            yield bullet(f"{item.node} stands in for {', '.join(item.stands_in)}: {error}")


def _skipped(compensation: Compensation) -> dict[str, list[str]]:
    """The maps that stayed as they were, by reason."""
    found: dict[str, list[str]] = {}
    for item in compensation.refits:
        if item.skipped is not None:
            found.setdefault(item.skipped, []).append(item.node)
    return found


def heat_of(chosen: Chosen, plan: PrunePlan) -> tuple[Scores, Removed]:
    """Return what every head is worth, and which ones go, per site."""
    names = {cut.index: f"{cut.called} {cut.name}" for cut in plan.cuts}
    scores = {names[index]: values for index, values in chosen.selection.scores.items() if index in names}
    removed = {names[index]: units for index, units in chosen.selection.heads.items() if index in names}
    return scores, removed
