"""The reports on scores of units, how units were selected, and remaining weights refitted; scores as a heat map."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from onnxheadprune.attention.sites.kinds import called
from onnxheadprune.choosing.compensation.record import Compensation
from onnxheadprune.choosing.scoring.scores import HeadScores, SiteScores
from onnxheadprune.choosing.space import UNTRIED
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.model.spelling import escaped, many
from onnxheadprune.reporting.console import bullet, heading, row, table
from onnxheadprune.workflow.choice.chosen import Chosen


def choice_rows(chosen: Chosen | None, plan: PrunePlan) -> Iterator[RenderableType]:
    """The basis of the choice, the trials, the refits, the drift, and a heat map."""
    if chosen is None:
        return
    yield row("chosen by", chosen.selection.basis)
    for reason, names in _by_reason(chosen.selection.constant).items():
        yield bullet(f"held constant: {_first_of(names)}: {reason}", "yellow")
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
        done = many(len(compensation.done), "linear layer")
        yield row("refitted", f"{done} on {many(compensation.samples, 'sample')}")
        yield from _stand_ins(compensation)
        for reason, nodes in _skipped(compensation).items():
            yield bullet(f"not {_first_of(nodes)}: {reason}", "yellow")
        limited = {item.node: item.limited for item in compensation.refits if item.limited is not None}
        for reason, nodes in _by_reason(limited).items():
            yield bullet(f"{_first_of(nodes)}: {reason}", "yellow")
    yield from _recovery(chosen)
    if chosen.drift is not None:
        yield row("selection", f"drift {chosen.drift:.3g} ({chosen.unit}) on {chosen.measured_on}")
    if any(value is not None for values in chosen.selection.scores.values() for value in values):
        yield from heat_rows(*heat_of(chosen, plan))


def _left_alone(chosen: Chosen) -> Iterator[RenderableType]:
    """The sites that nothing is known of, with the reasons."""
    if chosen.selection.left_out:
        yield row("left alone", "these could not be measured and are left unchanged:", "yellow")
    for reason, names in _by_reason(chosen.selection.left_out).items():
        yield bullet(f"{_first_of(names)}: {reason}", "yellow")
    if chosen.unreached:
        yield row("left alone", "no sample of the data runs these, so they are left unchanged:", "yellow")
        for site in chosen.unreached:
            yield bullet(site, "yellow")


def _recovery(chosen: Chosen) -> Iterator[RenderableType]:
    recovery = chosen.recovery
    if recovery is None:
        return
    how = f"{recovery.epochs:.3g} epochs of {recovery.kind}, learning rate {recovery.rate:g}"
    how += "" if recovery.precision == "float32" else f", products in {recovery.precision}"
    trained = f"{many(len(recovery.trained), 'tensor')} in {many(recovery.steps, 'step')} ({how})"
    yield row("recovered", trained if recovery.rejected is None else f"nothing: {recovery.rejected}")
    if recovery.rejected is not None:
        yield bullet(f"tried: {trained}", "yellow")
        yield bullet(f"written: the weights without training{_refit_of(chosen)}", "yellow")
    refit = chosen.compensation
    own = f"refit: {many(refit.samples, recovery.unit)}; " if refit is not None and refit.samples else ""
    yield bullet(own + recovery.data_words)
    yield bullet(f"what would help most is {recovery.help_words}")
    if recovery.planned is not None and recovery.planned.call is not None:
        yield bullet(
            f"of {recovery.planned.call:g} s for the whole call, {recovery.seconds:.3g} s of training"
        )
    worth = (
        f"loss on {many(recovery.held_out, 'held-out sample')} {recovery.before:.3g} -> {recovery.after:.3g}"
    )
    taken = f"of step {recovery.best}" if recovery.best else "of the start, since no step made it better"
    yield bullet(f"{worth}, {taken}", "" if recovery.best else "yellow")
    if recovery.stopped is not None:
        yield bullet(f"ended early: {recovery.stopped}", "yellow")
    for reason, names in _by_reason(recovery.constant).items():
        yield bullet(f"not {_first_of(names)}: {reason}", "yellow")


def _refit_of(chosen: Chosen) -> str:
    if chosen.compensation is None or not chosen.compensation.samples:
        return ""
    return f", refitted on {many(chosen.compensation.samples, 'sample')}"


def _first_of(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _by_reason(constant: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of what is held constant, by the reason."""
    names: dict[str, list[str]] = {}
    for name, reason in constant.items():
        names.setdefault(reason, []).append(name)
    return names


def _stand_ins(compensation: Compensation) -> Iterator[RenderableType]:
    for item in compensation.refits:
        if item.stands_in:
            error = f"held-out error of the stream behind {item.before:.3g} -> {item.after:.3g}"
            yield bullet(f"{item.node} stands in for {', '.join(item.stands_in)}: {error}")


def _skipped(compensation: Compensation) -> dict[str, list[str]]:
    """The layers that stayed unchanged, by reason."""
    layers: dict[str, list[str]] = {}
    for item in compensation.refits:
        if item.skipped is not None:
            layers.setdefault(item.skipped, []).append(item.node)
    return layers


def heat_of(chosen: Chosen, plan: PrunePlan) -> tuple[ScoresBySite, Removed]:
    """Return what every unit of sites with few of them is worth, and which ones go, per site."""
    cuts = {cut.index: f"{cut.called} {cut.name}" for cut in plan.cuts}
    names = {index: cuts.get(index, called(index)) for index in chosen.selection.scores}
    scores = {names[index]: values for index, values in chosen.selection.scores.items()}
    removed = {names[index]: units for index, units in chosen.selection.heads.items() if index in names}
    return scores, removed


SHOWN = 4
"""Heads to name at each end of a site."""


def score_rows(scores: HeadScores) -> Iterator[RenderableType]:
    """Rows for scores: the method, each site's least and most important heads, the spread of each block's neurons."""
    yield heading(f"{scores.model}: {scores.kinds} scored by {scores.method}")
    if scores.heads:
        yield ""
        yield _heads(scores.heads)
    if scores.blocks:
        yield ""
        yield _blocks(scores.blocks)
    yield ""
    yield row("unit", scores.unit)
    if scores.data is not None:
        yield row("data", f"{many(scores.samples or 0, 'sample')} of {scores.source} ({scores.data[:12]})")
    for reason, names in _by_reason(scores.constant).items():
        yield row("constant", f"{_first_of(names)}: {reason}", "yellow")


def _heads(sites: Sequence[SiteScores]) -> RenderableType:
    units = " and ".join(dict.fromkeys(site.kind.UNITS for site in sites))
    listing = table("#", "site", units, "least", "most", numeric=(units,), wraps=("least", "most"))
    for site in sites:
        order = sorted((value, head) for head, value in enumerate(site.scores) if value is not None)
        listing.add_row(
            called(site.index),
            site.name,
            str(len(order)),
            ", ".join(f"{head} ({value:.2g})" for value, head in order[:SHOWN]),
            ", ".join(f"{head} ({value:.2g})" for value, head in order[::-1][:SHOWN]),
        )
    return listing


def _blocks(blocks: Sequence[SiteScores]) -> RenderableType:
    columns = (
        " and ".join(dict.fromkeys(block.kind.UNITS for block in blocks)),
        "least",
        "a quarter below",
        "half below",
        "most",
    )
    listing = table("#", "block", *columns, numeric=columns)
    for block in blocks:
        order = sorted(value for value in block.scores if value is not None)
        shown = (order[0], order[len(order) // 4], order[len(order) // 2], order[-1])
        listing.add_row(block.key, block.name, str(len(order)), *(f"{value:.2g}" for value in shown))
    return listing


ScoresBySite = Mapping[str, Sequence[float | None]]
Removed = Mapping[str, Collection[int]]
_SHADES = "░▒▓█"
_CELL, _EVERY = 2, 4
"""Characters of a head, and heads from one number above the map to the next where there is no room for all."""
_KEPT, _REMOVED = "dodger_blue1", "dark_orange"
"""Blue for remaining heads and orange for those that go, as on pages and in pictures."""


def heat_rows(scores: ScoresBySite, removed: Removed | None = None) -> Iterator[RenderableType]:
    """A line per site with a shade per head, head numbers above and a legend below."""
    yield ""
    yield _HeatMap(scores, removed or {})


@dataclass(frozen=True)
class _HeatMap:
    """The map; where names and heads do not fit beside each other, the heads follow below their name."""

    scores: ScoresBySite
    removed: Removed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose the layout by the available width."""
        names = {name: escaped(name) for name in self.scores}
        heads = max(map(len, self.scores.values()), default=0)
        indent = max(map(len, names.values()), default=0) + 2
        strips = self._strips()
        if indent + _CELL * heads <= options.max_width:
            yield Text(" " * indent + _numbers(0, heads).rstrip(), style="dim")
            for name, strip in strips.items():
                yield Text.assemble((names[name].ljust(indent), "bold"), strip)
        else:
            indent, room = 2, (options.max_width - 2) // _CELL // _EVERY * _EVERY or _EVERY
            for name, strip in strips.items():
                yield Text(names[name], style="bold")
                for start in range(0, len(self.scores[name]), room):
                    end = min(start + room, len(self.scores[name]))
                    yield Text("  " + _numbers(start, end).rstrip(), style="dim")
                    yield Text.assemble("  ", strip[_CELL * start : _CELL * end])
        legend = Text(f"{_SHADES} low to high score, by rank over all sites", style="dim")
        for symbol, words in (("x", "removed"), ("·", f"kept, {UNTRIED}")):
            if any(symbol in strip.plain for strip in strips.values()):
                legend.append(f"; {symbol} {words}")
        indent = min(indent, options.max_width // 2)
        for line in legend.wrap(console, options.max_width - indent):
            line.rstrip()
            yield Text.assemble(" " * indent, line)

    def _strips(self) -> dict[str, Text]:
        """The heads of each site, two characters each."""
        ranks, strips = _ranks(self.scores), {}
        for name, values in self.scores.items():
            strip, gone = Text(), set(self.removed.get(name, ()))
            for head, value in enumerate(values):
                if head in gone:
                    strip.append("x ", style=_REMOVED)
                elif value is None:
                    strip.append("· ", style="dim")
                else:
                    level = min(int(ranks[name][head] * len(_SHADES)), len(_SHADES) - 1)
                    strip.append(_SHADES[level] * _CELL, style=_KEPT)
            strips[name] = strip
        return strips


def _numbers(start: int, end: int) -> str:
    step = 1 if end <= 10 else _EVERY
    return "".join(str(head).ljust(_CELL * step) for head in range(start, end, step))


def _ranks(scores: ScoresBySite) -> dict[str, list[float]]:
    """Each score's rank among all, from 0 to 1: a few huge ones must not hide the rest."""
    known = np.sort([value for values in scores.values() for value in values if value is not None])
    count = max(len(known) - 1, 1)
    return {
        name: [0.0 if value is None else float(np.searchsorted(known, value)) / count for value in values]
        for name, values in scores.items()
    }
