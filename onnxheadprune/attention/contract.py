"""The changes that a cut may make to the inputs and outputs of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Cache: TypeAlias = Literal["narrow", "keep", "renumber"]


@dataclass(frozen=True)
class Contract:
    """Consent to change the shapes that callers of the model rely on.

    Attributes:
        cache: what happens to past and present inputs and outputs: "narrow" removes the heads from them, "keep" keeps
            their shapes at the price of an edge gather, "renumber" also drops the cache of attention that goes as a
            whole, and closes the gap in the names of the others.
        allow_io_change: also narrow graph inputs and outputs that are no cache, where they carry heads.
        renumbered_sites: indices of the sites whose caches may be dropped, None for all.
    """

    cache: Cache = "narrow"
    allow_io_change: bool = False
    renumbered_sites: frozenset[int] | None = None


AS_IT_IS = Contract()
"""No consent is given beyond what every cut needs: caches follow the heads."""
