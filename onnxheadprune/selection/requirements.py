"""The scores and limits of a choice of heads, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxheadprune.benchmarking.request import BenchSettings
from onnxheadprune.errors import UsageError
from onnxheadprune.selection.allocate import Limits
from onnxheadprune.selection.kinds import HEADS_ALONE
from onnxheadprune.selection.scoring.scores import METHODS, SHARES, HeadScores
from onnxheadprune.settings.cutting import Method


@dataclass(frozen=True)
class Requirements:
    """The scores and limits of a choice of heads.

    Attributes:
        scores: what heads are worth; None measures it on the data, or without data goes by the weights.
        limits: floors, multiples, uniformity.
        protect: a head spec of heads that stay; a bare site protects all of its heads.
        sizes: how a speed-up is measured, where one is: settings of `benchmark`.
        units: the kinds of units that may go, as they are called, and layers: sublayers as a whole.
        method: how units are scored on the data, in the place of given scores; None measures cuts.

    Raises:
        UsageError: if there are scores and a method, or there is no such method.
    """

    scores: HeadScores | None = None
    limits: Limits = field(default_factory=Limits)
    protect: str | None = None
    sizes: BenchSettings = field(default_factory=BenchSettings)
    units: frozenset[str] = HEADS_ALONE
    method: Method | None = None

    def __post_init__(self) -> None:
        if self.method is None:
            return
        if self.scores is not None:
            raise UsageError(
                "scores are given, so there is nothing to score by a method; leave one of the two out"
            )
        if self.method not in METHODS:
            raise UsageError(f"there is no scoring method {self.method!r}; there are {', '.join(METHODS)}")

    @property
    def measures(self) -> bool:
        """True if cuts are measured where there is data, since scores do not compare across sites."""
        if self.method is not None:
            return self.method in SHARES
        return self.scores is None or self.scores.are_shares
