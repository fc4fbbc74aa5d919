"""What is not as it should be yet, by case, and why. The page shows it; a row that is not named here is a failure."""

from __future__ import annotations

from fnmatch import fnmatchcase

from tests.zoo.wild.row import WildRow

KNOWN: dict[str, str] = {
    "torchvision-mvit-v1.ts17": "TorchScript writes no shapes behind the pooling, so its heads cannot be told",
    "torchvision-mvit-v2.*": "queries are added to the context and stay when a head goes; or shapes are unknown",
}
"""Shell patterns of a case and its exporter, and the reason in plain words."""


def reason_for(row: WildRow) -> str | None:
    """Why a row may be as it is, None if nobody said so."""
    return next((reason for pattern, reason in KNOWN.items() if fnmatchcase(row.name, pattern)), None)
