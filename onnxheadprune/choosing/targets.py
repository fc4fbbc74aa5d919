"""Targets: how much to remove, what a choice has to respect, and the scores that it goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from onnxheadprune.attention.sites.find import Analysis
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.specs import listed, parsed
from onnxheadprune.choosing.allocate import Limits
from onnxheadprune.data.drift import Evidence
from onnxheadprune.errors import UsageError, named_setting
from onnxheadprune.model.display import one_line
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.cutting import AMOUNT, Cut
from onnxheadprune.settings.registry import METHODS, SHARE
from onnxheadprune.settings.setting import check
from onnxheadprune.settings.units import DEFAULT_UNITS, SELECTED

if TYPE_CHECKING:
    from onnxheadprune.benchmarking.measure import BenchSettings
    from onnxheadprune.choosing.scoring.scores import HeadScores


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """The scores and limits of a choice, whatever its size."""

    # what heads, or units of all kinds that may go, are worth; None measures it on the data, or without data
    # goes by the weights
    scores: HeadScores | None = None
    limits: Limits = field(default_factory=Limits)  # floors, multiples, uniformity
    protect: str | None = None  # a head spec of heads to keep; a bare site protects all of its heads
    # of the inputs that a speed-up is measured with, where one is: settings of `benchmark`
    sizes: BenchSettings = field(default_factory=lambda: cast("BenchSettings", {}))
    # the kinds of units that may go: "heads", "neurons", "layers". With more than heads a ratio is the share of
    # operations, not of the heads.
    units: frozenset[str] = DEFAULT_UNITS
    # a method of `score` that scores them on the data, in the place of given scores; None measures cuts
    method: str | None = None

    def __post_init__(self) -> None:
        if not self.units or not self.units <= set(SELECTED):
            raise UsageError(
                f"units are {', '.join(SELECTED)}, not {', '.join(sorted(self.units)) or 'none'}"
            )
        if self.method is not None and self.scores is not None:
            raise UsageError("scores and method are mutually exclusive; leave one of the two out")
        if self.method is not None and self.method not in METHODS:
            raise UsageError(f"there is no scoring method {self.method!r}; there are {', '.join(METHODS)}")
        if self.method is not None or self.scores is not None:
            from onnxheadprune.choosing.scoring.score import scored_kinds

            scored_kinds(self.units, self.method)

    @property
    def saves_bytes(self) -> bool:
        """True if costs are weighed against the bytes that a cut saves, whatever the units."""
        return False

    @property
    def measures(self) -> bool:
        """True if cuts are measured where there is data, since scores do not compare across sites."""
        if self.method is not None:
            unit: str = METHODS[self.method].unit
            return unit.startswith(SHARE)
        return self.scores is None or self.scores.are_shares

    def protected(self, sites: Sequence[Site]) -> dict[int, frozenset[int]]:
        """Heads that must stay, per site index (indices of the original model), by `protect`.

        A bare site ("3" or a name) protects all of its heads, and what is protected in a layer protects the layer.
        """
        found: dict[int, frozenset[int]] = {}
        for token in (self.protect or "").split():
            spec = token if ":" in token else None
            key = token if spec is None else token.rpartition(":")[0]
            matching = [
                site for site in sites if any(key in ("*", one.key, one.name) for one in (site, *site.parts))
            ]
            if not matching:
                raise UsageError(f"there is no {key!r} to protect; this model has {listed(sites)}")
            for site in matching:
                named = parsed(spec)[key] if spec and site.KIND.scored_by else None
                heads = range(site.original_num_units) if named is None else named
                if any(head >= site.original_num_units for head in heads):
                    raise UsageError(
                        f"{site.label} has {site.original_num_units} {site.KIND.unit}s, so {token!r} protects none"
                    )
                found[site.index] = found.get(site.index, frozenset()) | frozenset(heads)
        return found

    def scores_for(
        self,
        analysis: Analysis,
        sites: Sequence[Site],
        evidence: Evidence | None,
        progress: Progress = silent,
    ) -> HeadScores | None:
        """Scores of the units of some sites, None where cuts are measured."""
        method = self.method
        if method is None:
            return self.scores
        from onnxheadprune.choosing.scoring.by_method import scores_of

        return scores_of(analysis.name, analysis.view, sites, method, evidence, progress, skip=True)


@one_line("ratio keep target_size target_speedup max_drift units scores protect method")
@dataclass(frozen=True, kw_only=True)
class PruningTarget(Requirements):
    """The number of units to remove, given in one of several ways, and the requirements of the choice."""

    ratio: float | None = None  # share of all heads to remove
    keep: int | None = None  # heads that every site keeps
    target_size: float | None = None  # the smallest cut whose file is at most this share of the original's
    # the smallest cut that is this many times as fast here, at every grid point (`SpeedUp`)
    target_speedup: float | None = None
    max_drift: float | None = None  # the largest cut that drifts no further on held-out data

    def __post_init__(self) -> None:
        *ways, last = map(named_setting, AMOUNT.split())
        if sum(getattr(self, name) is not None for name in AMOUNT.split()) != 1:
            raise UsageError(f"specify exactly one of {', '.join(ways)} and {last}")
        super().__post_init__()
        check(Cut, **{name: getattr(self, name) for name in AMOUNT.split()})

    @property
    def saves_bytes(self) -> bool:
        """True for a target of the file's size."""
        return self.target_size is not None
