"""Known failures by shell patterns of folders, and their reasons. A row that is not named here is a failure."""

from __future__ import annotations

from fnmatch import fnmatchcase

from tests.zoo.row import Outcome, Row

KNOWN: dict[str, str] = {
    "levit.*": "its containers number attention and network one after the other; a layer is one of each",
    "timm-levit.*": "the attention that halves a stage lies in no container of layers",
    "timm-davit.*": "a block of the container is a spatial and a channel block, each with attention and network",
    "torchvision-mvit-v1.ts17": "TorchScript writes no shapes behind the pooling, so its heads cannot be told",
    "torchvision-mvit-v2.*": "queries are added to the context and stay when a head goes; or shapes are unknown",
}
"""The reason in plain words; the page prints it."""


def reason_for(row: Row) -> str | None:
    """Why a row may be as it is, None if nobody said so, or it is wrong."""
    if any(verdict.outcome in (Outcome.WRONG, Outcome.ERROR) for verdict in row.verdicts.values()):
        return None
    return next((reason for pattern, reason in KNOWN.items() if fnmatchcase(row.name, pattern)), None)
