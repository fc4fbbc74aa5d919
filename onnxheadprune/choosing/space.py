"""The search space of a choice, whatever the units: for each site a path of steps with their costs and savings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

import numpy as np

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.scoring.moves import Heads, Step, can_go_whole
from onnxheadprune.display.spelling import first_few
from onnxheadprune.edit.records import HEADS
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import JsonObject, Spelled
from onnxheadprune.settings.cutting import Selecting
from onnxheadprune.settings.units import OPERATIONS, key_of

Paths = Mapping[int, Sequence[Step]]
Choice = dict[int, Heads]
NOTHING = Step(frozenset(), 0.0)


def options(given: Selecting, site: Site, path: Sequence[Step]) -> list[Step]:
    """Return the steps of a path that respect the limits of a selection, first the one that removes nothing."""
    return [step for step in (NOTHING, *path) if _allows(given, site, step.removed)]


def _allows(given: Selecting, site: Site, removed: Heads) -> bool:
    left = site.num_units - len(removed)
    return not removed or (
        left >= max(given.min_heads, 0)
        and left % given.multiple(site.KIND.units) == 0
        and (not given.takes_whole_groups or _takes_whole_groups(site, removed))
    )


def _takes_whole_groups(site: Site, removed: Heads) -> bool:
    return (
        len(site.groups) == 1
        or not site.may_lose_groups
        or all(set(group) <= removed or not set(group) & removed for group in site.groups)
    )


def allocate(
    sites: Sequence[Site], paths: Paths, size_of: Callable[[Site, Step], int], wanted: int, *, over: bool
) -> Choice:
    """The cheapest cut of `wanted` pieces: of the most up to that, or with `over` of at least so many.

    Costs of sites add up: a knapsack with one step or none per site, solved exactly. The least cost of some pieces is
    the minimum over the last site's steps of the least cost of the pieces before plus that of the step. A step of a
    site that has others inside is taken in place of theirs.

    Args:
        sites: those inside another one just before it.
    """
    options = {site.index: (NOTHING, *paths[site.index]) for site in sites}
    costs = np.full(wanted + 1, np.inf)
    costs[0] = 0.0
    known, picks = [costs], list[np.ndarray]()
    for at, site in enumerate(sites):
        best, pick = np.full(wanted + 1, np.inf), np.zeros(wanted + 1, int)
        numbered = list(enumerate(options[site.index]))
        # Which of equally cheap cuts is taken.
        for number, step in numbered if over else sorted(numbered, key=lambda one: -len(one[1].removed)):
            size = size_of(site, step)
            if size > wanted and not over:
                continue
            size = min(size, wanted)
            costs = known[before(sites, at) if step.removed else at]
            below = np.full(size, costs[0] if over else np.inf)
            reached = np.concatenate([below, costs[: wanted + 1 - size]]) + step.error
            better = reached < best
            best[better], pick[better] = reached[better], number
        picks.append(pick)
        known.append(best)
    choice: Choice = {}
    left = wanted if over else int(np.flatnonzero(known[-1] < np.inf)[-1])
    at = len(sites) - 1
    while at >= 0:
        site = sites[at]
        step = options[site.index][picks[at][left]]
        choice[site.index] = step.removed
        left = max(left - size_of(site, step), 0)
        at = (before(sites, at) if step.removed else at) - 1
    return _required(choice, wanted)


def before(sites: Sequence[Site], at: int) -> int:
    """Return the number of sites before one and all that lie inside it."""
    return at - len(sites[at].inner(sites[:at]))


def evenly(paths: Paths, aims: Mapping[Site, float], wanted: int, *, over: bool) -> Choice:
    """So many units of every site: the most up to that, or with `over` the least above it."""
    choice = {}
    for site, aim in aims.items():
        options = (NOTHING, *paths[site.index])
        if over:
            fitting = [step for step in options if len(step.removed) >= aim]
            step = min(fitting, key=_by_size) if fitting else max(options, key=_by_size)
        else:
            step = max((step for step in options if len(step.removed) <= aim + 1e-9), key=_by_size)
        choice[site.index] = step.removed
    return _required(choice, wanted)


def _by_size(step: Step) -> tuple[int, float]:
    return len(step.removed), -step.error


def _required(choice: Choice, wanted: int) -> Choice:
    chosen = {index: heads for index, heads in choice.items() if heads}
    if wanted > 0 and not chosen:
        raise RefusedError(
            f"{wanted} units are fewer than the first cut of any site takes (KV heads are removed with their query"
            " heads; multiples and minimums apply); ask for more, or loosen the limits"
        )
    return chosen


@dataclass(frozen=True)
class Savings:
    """The savings of a site that loses units: operations, which rise evenly, or time, measured at a few widths."""

    units: tuple[float, ...]  # the number of removed units at each point; increasing from 0
    saved: tuple[float, ...]  # the savings there; non-decreasing from 0

    @classmethod
    def evenly(cls, units: int, each: float) -> Savings:
        """A curve on which every unit saves the same."""
        return cls((0, units), (0.0, units * each))

    def of(self, count: int) -> float:
        """Return the savings of removing `count` units."""
        return float(np.interp(count, self.units, self.saved))


WITHOUT_DATA = "weights (no data was given)"
"""The basis of a choice that nothing was measured for."""
NAMED = "named"
"""The basis of a choice that the user made."""
CARRIED_OVER = "carried over from"
"""The prefix of the basis in a file of a folder that units were not chosen on."""
UNTRIED = "in no cut that was considered"
"""Text for a unit without a score where others have one."""
AFTER_REFIT = "measured drift after refit"
"""The basis of a choice by trial refits."""
PARTS = 200
"""Into how many parts the operations of all blocks are divided: sizes that a search tries."""
FINE = 50
"""Into how many pieces the knapsack divides a part."""
ROUNDING = 1e-9
"""Tolerance for a floating-point quotient that should be a whole number of pieces."""

BY_SITE = Spelled(Any, lambda values: {key_of(index): value for index, value in values.items()})
"""Mark of values by the index of a site, which are written under its key."""


@one_line("heads basis left_out")
@dataclass(frozen=True)
class Selection(JsonObject):
    """Heads to remove, and why these.

    Attributes:
        heads: heads to remove per site index (indices of the original model).
        basis: how the choice was made.
        costs: expected cost per site index, in the unit of `basis`.
        scores: what each head was worth (the cost of the step in which it would go), per site index.
        constant: what scores by gradients held constant on the way, with the reason, by the name of the value.
        left_out: labels of the sites that could not be measured and therefore stay, with the reason.
    """

    heads: Annotated[Mapping[int, tuple[int, ...]], BY_SITE]
    basis: str
    costs: Annotated[Mapping[int, float], BY_SITE] = field(default_factory=dict)
    scores: Annotated[Mapping[int, tuple[float | None, ...]], BY_SITE] = field(default_factory=dict)
    constant: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Heads that go, in all."""
        return sum(len(heads) for heads in self.heads.values())

    @property
    def spec(self) -> dict[str, list[int]]:
        """The units as a spec."""
        return {key_of(index): list(units) for index, units in self.heads.items()}

    @property
    def is_blind(self) -> bool:
        """True if the weights alone chose, without any data."""
        return self.basis == WITHOUT_DATA


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """The options of a choice of any size: a path of steps for each site, and what each step saves."""

    sites: tuple[Site, ...]  # that may lose units
    paths: Paths  # steps within the limits, with costs that add up across sites
    savings: Mapping[int, Savings]  # per site: of units, multiply-adds x 2, bytes, or shares of the latency
    whole: float  # of all sites, in the unit of `savings`
    basis: str  # the meaning of costs
    counted: str = OPERATIONS  # what ratios are shares of: of the model's heads, or of the blocks
    total: int = PARTS  # parts of the whole, in which sizes are given: heads, or PARTS
    fine: int = FINE  # pieces of a part that steps are rounded to
    given: Selecting = field(default_factory=Selecting)  # the settings whose limits the steps respect
    scores: Mapping[int, tuple[float | None, ...]] = field(default_factory=dict)
    constant: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def counts_heads(self) -> bool:
        """True if sizes are heads, which are hit or missed below; others are parts, of which at least so many go."""
        return self.counted == HEADS

    @property
    def units(self) -> str:
        """Plural of what is removed, for people."""
        return "heads" if self.counts_heads else "units"

    def share_of(self, selection: Selection) -> float:
        """The share of what is counted that a cut takes."""
        saved = sum(self.savings[index].of(len(units)) for index, units in selection.heads.items())
        return saved / (self.whole or 1.0)

    def most(self) -> int:
        """The largest size; the last part may be a fraction."""
        return math.ceil(self._pieces_in_all / self.fine)

    def smallest(self, holds: Callable[[int], bool]) -> int:
        """The smallest size that meets a condition which the largest size meets, and all from some size on."""
        low, high = 0, self.most()
        while high - low > 1:
            middle = (low + high) // 2
            if holds(middle):
                high = middle
            else:
                low = middle
        return high

    @property
    def _pieces_in_all(self) -> int:
        most = [0]
        for at, site in enumerate(self.sites):
            own = max((self._pieces(site, step) for step in self.paths[site.index]), default=0)
            most.append(max(most[-1], most[before(self.sites, at)] + own))
        return most[-1]

    def has_cut(self, count: int) -> bool:
        """Return whether a cut has this size, or as heads a smaller one; groups of KV heads can forbid small ones."""
        if not self.counts_heads:
            return 0 < count <= self.most()
        try:
            return self.removing(count).count > 0
        except RefusedError:
            return False

    def removing(self, count: int) -> Selection:
        """The cheapest cut of so many heads, or the next number below, or of so many parts, or a little more."""
        over = not self.counts_heads
        if over and count > self.most():
            raise self._too_much(count)
        if self.given.uniform:
            share = count / (self.total if over else max(sum(site.num_units for site in self.sites), 1))
            aims = {site: share * site.num_units for site in self.sites}
            return self._selection(evenly(self.paths, aims, count, over=over))
        wanted = min(count * self.fine, self._pieces_in_all) if over else count
        return self._selection(allocate(self.sites, self.paths, self._pieces, wanted, over=over))

    def ratio(self, share: float) -> Selection:
        """The cheapest cut of a share of what is counted."""
        count = round(self.total * share)
        if not count and self.counts_heads:
            raise UsageError(f"{share:g} of {self.total} heads is less than one head; ask for more")
        count = max(count, 1)
        if count * self.fine > self._pieces_in_all:
            raise self._too_much(count)
        return self.removing(count)

    def _too_much(self, count: int) -> RefusedError:
        pieces, more = self._pieces_in_all, ""
        if self.counts_heads:
            asked, most = f"{count} of {self.total} heads", f"{pieces}"
            kept = "protected heads, minimums, groups of KV heads and sites that cannot lose heads"
            if self.given.min_heads and any(can_go_whole(site) for site in self.sites):
                more = "; with `min_heads=0` whole sites can go"
        else:
            asked = f"{count / self.total:.1%} of the blocks' {self.counted}"
            most = f"{pieces // self.fine / self.total:.1%}"
            kept = "protected units, minimums and blocks that cannot lose units"
        return RefusedError(
            f"{asked} were asked for, but only {most} can go ({kept} are kept){and_skipped(self.skipped)}{more}"
        )

    def keeping(self, count: int) -> Selection:
        """Every site down to so many units, or the model to so many layers."""
        if len({site.KIND.units for site in self.sites}) > 1:
            raise UsageError(
                f"`keep={count}` counts units of one kind; with several say"
                f" `ratio`, `target_speedup` or `max_drift`"
            )
        # Each layer is a site, of which the model keeps so many.
        aims = {site: max(site.num_units - count, 0) for site in self.sites if site.KIND.scored_by}
        fewer = sum(aims.values()) if aims else len(self.sites) - count
        if fewer <= 0:
            most = max((site.num_units for site in aims), default=len(self.sites))
            raise RefusedError(f"`keep={count}` leaves nothing to remove: there are no more than {most}")
        if aims:
            return self._selection(evenly(self.paths, aims, fewer, over=False))
        return self._selection(
            allocate(self.sites, self.paths, lambda _, step: len(step.removed), fewer, over=False)
        )

    def _pieces(self, site: Site, step: Step) -> int:
        """Whole pieces that a step saves, rounded down; quotients may fall short by an error of rounding."""
        share = self.savings[site.index].of(len(step.removed)) / (self.whole or 1.0)
        return int(share * self.total * self.fine + ROUNDING)

    def _selection(self, choice: Choice) -> Selection:
        units, costs = {}, {}
        for site in self.sites:
            if site.index in choice:
                removed = choice[site.index]
                units[site.index] = tuple(sorted(site.original(removed)))
                costs[site.index] = next(
                    step.error for step in self.paths[site.index] if step.removed == removed
                )
        return Selection(units, self.basis, costs, self.scores, self.constant, self.skipped)


Asked: TypeAlias = Callable[[SearchSpace], Selection]
"""A target, as a function from a search space to the selection that meets it."""


def foresee(asked: Asked | None, spaces: Iterable[SearchSpace], instead: str) -> None:
    """Ask a target of search spaces whose costs are not known yet, so that what cannot be met costs no pass.

    Args:
        spaces: of which one is that of the model, as far as that is known; their basis is "".
        instead: what to do where data is missing, "" where none is.
    """
    if asked is None:
        return
    refused = None
    for space in spaces:
        try:
            asked(space)
            return
        except RefusedError as error:
            refused = error
    if refused is not None:
        raise RefusedError(f"{refused}; {instead}" if instead else str(refused))


def and_skipped(skipped: Mapping[str, str]) -> str:
    """The sites that could not be measured, as the end of a refusal; nothing where all were."""
    if not skipped:
        return ""
    return f"; {first_few(skipped, 1)} could not be measured: {next(iter(skipped.values()))}"


def worth(site: Site, steps: Sequence[Step]) -> tuple[float | None, ...]:
    """The cost per head of the step in which each head would go, None for heads that are gone or stay."""
    found: list[float | None] = [None] * site.original_num_units
    names = site.original_units
    before, done = 0.0, frozenset[int]()
    for step in steps:
        fresh = step.removed - done
        if not step.removed > done:
            continue
        for head in fresh:
            found[names[head]] = (step.error - before) / len(fresh)
        before, done = step.error, step.removed
    return tuple(found)
