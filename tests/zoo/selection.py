"""What of the zoo the tests build and check: all of it would take hours."""

from __future__ import annotations

import os
import zlib

from tests.zoo.build import ALL, QUICK
from tests.zoo.case import Case
from tests.zoo.postprocess import TOLERANCES

REPRESENTATIVES = (
    "albert",
    "bert",
    "cache-llama-gqa",
    "gpt2",
    "hand-packed-split",
    "linear-elu",
    "llama-gqa",
    "mha-batch-first",
    "swin",
    "t5",
    "vit",
    "whisper-decoder",
)
"""Cases that every variant is made of; the others come as one or two plain exports."""
WHOLE = bool(os.environ.get("ONNXHEADPRUNE_ZOO_WHOLE"))
"""Whether every case comes as both."""


KNOWN_GAPS = {
    "gqa-tall": "query heads folded into the rows of a product by a symbolic sequence length",
    "hand-head-split": "heads concatenated along a symbolic batch axis, head-major",
}
"""Cases whose heads are not found yet. They are reported as such, never pruned wrongly."""


def selected(cases: list[Case]) -> list[tuple[str, str]]:
    """Case and variant of each folder, those of one case together.

    An export by torch.export takes longer than all that is done with it: without `WHOLE` a quarter of the cases have
    one.
    """
    return [(case.name, variant) for case in cases for variant in _variants(case.name)]


def _variants(case: str) -> tuple[str, ...]:
    if case in REPRESENTATIVES:
        return ALL
    return QUICK if WHOLE or zlib.crc32(case.encode()) % 4 == 0 else QUICK[:1]


def is_fp32(variant: str) -> bool:
    """Whether no step of a variant changes the numbers."""
    return not any(step in TOLERANCES for step in variant.split("+"))
