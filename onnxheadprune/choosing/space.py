"""The search space of a choice: the sites, and for each a path of steps with their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeAlias

from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.kinds import key_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.allocate import (
    Choice,
    Limits,
    Paths,
    allocate,
    keep_per_site,
)
from onnxheadprune.choosing.scoring.moves import Step, can_go_whole
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.display import one_line
from onnxheadprune.settings.cutting import Cut
from onnxheadprune.settings.setting import check

WITHOUT_DATA = "weights (no data was given)"
"""The basis of a choice that nothing was measured for."""
NAMED = "named"
"""The basis of a choice that the user made."""
CARRIED_OVER = "carried over from"
"""What the basis begins with in a file of a folder that units were not chosen on."""
UNTRIED = "in no cut that was considered"
"""What is known of a unit without a score where others have one."""
AFTER_REFIT = "measured drift after refit"
"""The basis of a choice by trial refits."""


@one_line("heads basis left_out")
@dataclass(frozen=True)
class Selection:
    """Heads to remove, and why these.

    Attributes:
        heads: heads to remove per site index (indices of the original model).
        basis: how the choice was made.
        costs: expected cost per site index, in the unit of `basis`.
        scores: what each head was worth (the cost of the step in which it would go), per site index.
        constant: what scores by gradients held constant on the way, with the reason, by the name of the value.
        left_out: labels of the sites that could not be measured and therefore stay, with the reason.
    """

    heads: Mapping[int, tuple[int, ...]]
    basis: str
    costs: Mapping[int, float] = field(default_factory=dict)
    scores: Mapping[int, tuple[float | None, ...]] = field(default_factory=dict)
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; `heads` is a head spec."""
        return {
            "heads": self.spec,
            "basis": self.basis,
            "costs": {key_of(index): cost for index, cost in self.costs.items()},
            "scores": {key_of(index): list(values) for index, values in self.scores.items()},
            "constant": dict(self.constant),
            "left_out": dict(self.left_out),
        }


class Space(Protocol):
    """The options of a choice of any size; sizes are whole numbers, of heads or of parts of a budget."""

    UNITS: ClassVar[str]  # what goes, for people: "heads", or "units" of several kinds

    @property
    def total(self) -> int:
        """What ratios are taken of."""

    @property
    def basis(self) -> str:
        """How choices are made."""

    @property
    def counted(self) -> str:
        """What ratios are shares of: "heads", or "operations" of the blocks that can lose units."""

    def share_of(self, selection: Selection) -> float:
        """The share of that which a cut takes."""

    def most(self) -> int:
        """The largest size."""

    def has_cut(self, count: int) -> bool:
        """Return whether some cut has so large a size, or a smaller one."""

    def removing(self, count: int) -> Selection:
        """The cheapest cut of a size."""

    def ratio(self, share: float) -> Selection:
        """The cheapest cut of a share of all there is."""

    def keeping(self, count: int) -> Selection:
        """The cheapest cut that leaves so many heads to every site."""


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """The options of choices of any size: the sites, and a path for each."""

    UNITS: ClassVar[str] = "heads"

    sites: tuple[AttentionSite, ...]  # sites that may lose heads
    total: int  # heads of all sites of the model, of which ratios are taken
    paths: Paths  # steps per site index, with costs that add up across sites
    basis: str  # what the costs are
    limits: Limits  # what cuts respect
    constant: Mapping[str, str] = field(default_factory=dict)  # see `Selection`
    left_out: Mapping[str, str] = field(default_factory=dict)  # see `Selection`

    @property
    def counted(self) -> str:
        """What ratios are shares of."""
        return "heads"

    def share_of(self, selection: Selection) -> float:
        """The share of all heads that a cut takes."""
        return selection.count / max(self.total, 1)

    def most(self) -> int:
        """The most heads that can go."""
        options = (self.limits.options(site, self.paths[site.index]) for site in self.sites)
        return sum(max(len(step.removed) for step in found) for found in options)

    def has_cut(self, count: int) -> bool:
        """Whether some cut removes so many heads or fewer; groups of KV heads and multiples can forbid small ones."""
        try:
            return self.removing(count).count > 0
        except RefusedError:
            return False

    def removing(self, count: int) -> Selection:
        """The cheapest way to remove so many heads."""
        return self._selection(allocate(self.sites, self.paths, count, self.limits))

    def ratio(self, share: float) -> Selection:
        """The cheapest way to remove a share of all heads."""
        check(Cut, ratio=share)
        wanted = round(self.total * share)
        if not wanted:
            raise UsageError(f"{share:g} of {self.total} heads is less than one head; ask for more")
        if wanted > self.most():
            raise RefusedError(
                f"{wanted} of {self.total} heads were asked for, but only {self.most()} can go"
                " (protected heads, minimums, groups of KV heads and sites that cannot lose heads are kept)"
                f"{and_left_out(self.left_out)}{self._whole_sites()}"
            )
        return self.removing(wanted)

    def _whole_sites(self) -> str:
        """Return how more heads can go, as the end of a refusal; nothing where no whole site can."""
        if not self.limits.min_heads or not any(can_go_whole(site) for site in self.sites):
            return ""
        return "; with --min-heads 0 whole sites can go"

    def keeping(self, count: int) -> Selection:
        """Every site down to so many heads."""
        check(Cut, keep=count)
        return self._selection(keep_per_site(self.sites, self.paths, count, self.limits))

    def _selection(self, choice: Choice) -> Selection:
        heads, costs, scores = {}, {}, {}
        for site in self.sites:
            steps = self.paths[site.index]
            scores[site.index] = worth(site, steps)
            if site.index in choice:
                heads[site.index] = tuple(sorted(site.original(choice[site.index])))
                costs[site.index] = next(
                    (step.error for step in steps if step.removed == choice[site.index]), 0.0
                )
        return Selection(heads, self.basis, costs, scores, self.constant, self.left_out)


Asked: TypeAlias = Callable[[Space], Selection]
"""What a wish asks of a search space."""


def foresee(asked: Asked | None, spaces: Iterable[Space], instead: str) -> None:
    """Ask a wish of search spaces whose costs are not known yet, so that what cannot be met costs no pass.

    Args:
        spaces: of which one is that of the model, as far as that is known.
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
        raise RefusedError(f"{refused}; {instead}")


def and_left_out(left_out: Mapping[str, str]) -> str:
    """Return what could not be measured, as the end of a refusal; nothing where all was."""
    if not left_out:
        return ""
    label, reason = next(iter(left_out.items()))
    others = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
    return f"; {label}{others} could not be measured: {reason}"


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
