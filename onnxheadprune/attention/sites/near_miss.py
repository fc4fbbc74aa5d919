"""Candidates that are no sites, with the reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.model.display import one_line


@one_line()
@dataclass(frozen=True)
class NearMiss:
    """A candidate that is no site, with the reason.

    Attributes:
        node: label of the projection, or of the attention.
        obstacle: why it is none.
        units: the name of the units of such a site.
        fixed: tries whether the units are found once all inputs have fixed sizes; None where they have.
    """

    node: str
    obstacle: Refusal
    units: str = "heads"
    fixed: Callable[[], bool] | None = field(default=None, compare=False, repr=False)

    @cached_property
    def reason(self) -> Refusal:
        """The obstacle, with whether fixed sizes help, which is tried for those who read it."""
        if self.fixed is None:
            return self.obstacle
        if self.fixed():
            advice = f"in an export with fixed sizes its {self.units} are found"
        elif self.obstacle.reason.hides_axes:
            advice = "fixed sizes would not help"
        else:
            return self.obstacle
        return replace(self.obstacle, sentence=f"{self.obstacle.sentence}; {advice}")

    def to_dict(self) -> dict[str, str]:
        """The near miss as JSON-ready data."""
        return {"node": self.node, "reason": self.reason.sentence, "units": self.units}
