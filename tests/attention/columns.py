"""Columns of weights as `inspect --json` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxheadprune.model.spelling import read_ranges


def positions(entry: Mapping[str, Any], owner: int) -> list[int]:
    """Where the columns of an owner lie, as the documentation says."""
    place = owner - entry["first"]
    if not 0 <= place < entry["count"]:
        return []
    if "indices" in entry:
        return list(read_ranges(entry["indices"][place], 10**6))
    first = entry["offset"] + place * entry["step"]
    return list(range(first, first + entry["size"]))
