"""What is not as it should be yet, by case, and why. The page shows it; a row that is not named here is a failure."""

from __future__ import annotations

from fnmatch import fnmatchcase

from tests.zoo.wild.row import WildRow

KNOWN: dict[str, str] = {}
"""Shell patterns of cases, and the reason in plain words."""


def reason_for(row: WildRow) -> str | None:
    """Why a row may be as it is, None if nobody said so."""
    return next((reason for pattern, reason in KNOWN.items() if fnmatchcase(row.name, pattern)), None)
