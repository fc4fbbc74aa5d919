"""How long a recovery may train: epochs, or seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxheadprune.errors import UsageError

MOST_EPOCHS = 10_000
MOST_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Budget:
    """One of the two.

    Attributes:
        epochs: passes over the data to learn from. The same data and seed give the same bytes.
        seconds: until training ends, the search for a learning rate included.
    """

    epochs: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [item for item in (self.epochs, self.seconds) if item is not None]
        if len(given) != 1 or not (math.isfinite(given[0]) and given[0] > 0):
            raise UsageError("a recovery takes a number of epochs or of seconds above 0")
        if (self.epochs or 0) > MOST_EPOCHS or (self.seconds or 0) > MOST_SECONDS:
            raise UsageError(f"a recovery takes up to {MOST_EPOCHS:,} epochs or {MOST_SECONDS:,.0f} seconds")

    def __str__(self) -> str:
        return f"{self.epochs:g} epochs" if self.seconds is None else f"{self.seconds:g} s"

    def shared(self, among: int) -> Budget:
        """An equal part of it."""
        if self.seconds is not None:
            return Budget(seconds=self.seconds / among)
        return Budget(epochs=(self.epochs or 0.0) / among)


def parse_budget(text: str) -> Budget:
    """A budget from "10" (epochs) or "90s" (seconds; "5m" and "1h" as well).

    Raises:
        UsageError: if it is none.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    spelled = text.strip().lower()
    factor = units.get(spelled[-1:], 0)
    try:
        number = float(spelled[:-1] if factor else spelled)
    except ValueError:
        raise UsageError(
            f"a recovery takes a number of epochs like 10, or a time like 90s or 5m, not {text!r}"
        ) from None
    return Budget(seconds=number * factor) if factor else Budget(epochs=number)
