"""Which refusals are legal answers where pruning is expected. Everything else is a finding."""

from __future__ import annotations

import re

from tests.zoo.folder import Folder, HeadSet

LEGAL_FOR_WHOLE_SITES = re.compile(r"with nothing left to sum up cannot be expressed as a constant")
LEGAL = re.compile(
    r"MatMulNBits packs|the last block of .* is not full|packs the zero points of"
    r"|share (blocks|bytes of zero points) of its packed projection"
    # The range of queries, keys or weights is taken over all heads together.
    r"|DynamicQuantizeLinear mixes values across heads"
)


def is_legal(refusal: str, heads: HeadSet, folder: Folder) -> bool:
    """Whether a head set may be refused for this reason."""
    whole = any(
        len(gone) == projection["num_heads"]
        for gone, projection in zip(heads, folder.projections, strict=True)
    )
    return bool(LEGAL.search(refusal)) or (whole and bool(LEGAL_FOR_WHOLE_SITES.search(refusal)))
