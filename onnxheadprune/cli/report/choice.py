"""How heads were chosen and what made up for them, for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType

from onnxheadprune.cli.report.heatmap import Removed, Scores, heat_rows
from onnxheadprune.cli.report.layout import bullet, many, row
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.selection.compensation import Compensation
from onnxheadprune.selection.wishes import Chosen


def choice_rows(chosen: Chosen | None, plan: PrunePlan) -> Iterator[RenderableType]:
    """The basis of the choice, the trials, the refits, the drift, and a heat map."""
    if chosen is None:
        return
    yield row("chosen by", chosen.selection.basis)
    for trial in chosen.trials:
        word = "meets the target" if trial.meets else "does not"
        unit = f" ({chosen.unit})" if trial.speed is None and chosen.unit else ""
        times = (
            f"{trial.measured:.3g}{unit}" if trial.speed is None else f"{trial.measured:.2f} times as fast"
        )
        yield bullet(f"{many(trial.removed, 'head')}: {times}, {word}")
    if chosen.speed is not None:
        yield row("speed", f"{chosen.speed} on {chosen.speed.provider.label}")
    compensation = chosen.compensation
    if compensation is not None:
        done = [item for item in compensation.refits if item.skipped is None]
        yield row("refitted", f"{many(len(done), 'linear map')} on {many(compensation.samples, 'sample')}")
        for reason, nodes in _skipped(compensation).items():
            more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
            yield bullet(f"not {nodes[0]}{more}: {reason}", "yellow")
    if chosen.drift is not None:
        where = "held-out data" if chosen.held_out else "the calibration data, which the refit has seen"
        yield row("drift", f"{chosen.drift:.3g} ({chosen.unit}) on {where}")
    if any(value is not None for values in chosen.selection.scores.values() for value in values):
        yield from heat_rows(*heat_of(chosen, plan))


def _skipped(compensation: Compensation) -> dict[str, list[str]]:
    """The maps that stayed as they were, by reason."""
    found: dict[str, list[str]] = {}
    for item in compensation.refits:
        if item.skipped is not None:
            found.setdefault(item.skipped, []).append(item.node)
    return found


def heat_of(chosen: Chosen, plan: PrunePlan) -> tuple[Scores, Removed]:
    """What every head is worth, and which ones go, per site."""
    names = {cut.index: f"{cut.index} {cut.name}" for cut in plan.cuts}
    scores = {names[index]: values for index, values in chosen.selection.scores.items()}
    removed = {names[index]: heads for index, heads in chosen.selection.heads.items()}
    return scores, removed
