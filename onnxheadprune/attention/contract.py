"""What a cut may do to the inputs and outputs of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contract:
    """Consent to change the shapes that callers of the model rely on.

    Attributes:
        keep_cache_shape: keep the shapes of past/present inputs and outputs, at the price of an edge gather.
        allow_io_change: also narrow graph inputs and outputs that are no cache, where they carry heads.
        renumber_cache: drop the cache of attention that goes as a whole, and close the gap in the names of the others.
        renumbered_sites: indices of the sites for which that was agreed to, None for all.
    """

    keep_cache_shape: bool = False
    allow_io_change: bool = False
    renumber_cache: bool = False
    renumbered_sites: frozenset[int] | None = None


AS_IT_IS = Contract()
"""No consent is given beyond what every cut needs: caches follow the heads."""
