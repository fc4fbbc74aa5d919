"""What of the zoo the tests build and check: all of it would take hours."""

from __future__ import annotations

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
"""Cases that every variant is made of; the others come as two plain exports."""


def selected(cases: list[Case]) -> list[tuple[str, str]]:
    """Case and variant of each folder, those of one case together."""
    return [
        (case.name, variant) for case in cases for variant in (ALL if case.name in REPRESENTATIVES else QUICK)
    ]


def is_fp32(variant: str) -> bool:
    """Whether no step of a variant changes the numbers."""
    return not any(step in TOLERANCES for step in variant.split("+"))
