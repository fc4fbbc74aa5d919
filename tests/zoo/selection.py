"""What of the zoo the tests build and check: all of it would take hours."""

from __future__ import annotations

from tests.zoo.build import ALL, QUICK
from tests.zoo.case import Case
from tests.zoo.postprocess import TOLERANCES

REPRESENTATIVES = frozenset(
    "albert bert cache-llama-gqa gpt2 hand-packed-split linear-elu llama-gqa mha-batch-first swin t5 vit"
    " whisper-decoder".split()
)
"""Cases that every variant is made of; the others come as two plain exports."""


GUARDS = {
    "bert": (
        "ts17",
        "dyn18",
        "ts17+int8dyn",
        "ts17+qdq",
        "ts17+ort-fused",
    ),  # each kind of unit, quantized, fused
    "albert": ("ts17", "ts17+nbits4"),  # one weight for all layers
    "cache-llama-gqa": (
        "ts17",
        "dyn23",
        "ts17+in-if",
    ),  # grouped queries and a cache, in a fused operator, in a branch
    "gpt2": ("ts17+ort-extended",),  # packed queries, keys and values
    "t5": ("ts17",),  # one position bias for all layers
    "swin": ("ts17+functions",),  # windows, and a resolution that changes
    "vit": ("ts17+fp16",),  # half precision
    "llama-gqa": ("dyn18+slim",),
    "experts-rows": ("ts17",),  # tokens that are gathered by expert
    "mixtral": ("dyn18",),
    "joint-attention": ("ts17",),  # two projections of one core
    "hand-head-minor": ("ts17",),  # columns of a head that are apart
    "gqa-index": ("dyn18",),
    "deepseek-latent": ("ts17",),  # keys of several heads from one latent
    "wav2vec2": ("ts17",),
    "timm-davit": ("ts17",),  # counts that are known to differ
    "sub-layer-norm": ("ts17",),  # refused
    "no-output-projection": ("ts17",),
    "early-exit": ("ts17",),  # layers in branches
}
"""The graphs of the matrix that CI builds and checks, the same for every commit; `--all` takes all."""


def guarding() -> list[tuple[str, str]]:
    """Case and variant of each folder of `GUARDS`."""
    return [(case, variant) for case, variants in GUARDS.items() for variant in variants]


def selected(cases: list[Case]) -> list[tuple[str, str]]:
    """Case and variant of each folder, those of one case together."""
    return [
        (case.name, variant) for case in cases for variant in (ALL if case.name in REPRESENTATIVES else QUICK)
    ]


def is_fp32(variant: str) -> bool:
    """Whether no step of a variant changes the numbers."""
    return not any(step in TOLERANCES for step in variant.split("+"))
