"""Architectures and graphs as fixtures. Torch is imported by the tests that need it, not by this file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

if TYPE_CHECKING:
    from tests.zoo.build import Original

PLACE = "ONNXHEADPRUNE_ZOO"
Zoo: TypeAlias = "Callable[[str], Original]"

REPRESENTATIVES = frozenset(
    "albert bert cache-llama-gqa gpt2 hand-packed-split llama-gqa mha-batch-first swin t5 vit"
    " whisper-decoder".split()
)
"""Cases that `--all` makes every variant of; the others come as two plain exports."""
GUARDS = {
    "bert": "ts17 dyn18 ts17+int8dyn ts17+qdq ts17+ort-fused",  # each kind of unit, quantized, fused
    "albert": "ts17 ts17+nbits4",  # one weight for all layers
    "cache-llama-gqa": "ts17 dyn23 ts17+in-if",  # grouped queries and a cache, in a fused operator, in a branch
    "gpt2": "ts17+ort-extended",  # packed queries, keys and values
    "t5": "ts17",  # one position bias for all layers
    "swin": "ts17+functions",  # windows, and a resolution that changes
    "vit": "ts17+fp16",  # half precision
    "llama-gqa": "dyn18+slim",
    "experts-rows": "ts17",  # tokens that are gathered by expert
    "mixtral": "dyn18",
    "deepseek-v3": "ts17 dyn18",  # a router that chooses groups first
    "qwen2-moe": "ts17",  # an expert of all tokens beside the others
    "joint-attention": "ts17",  # two projections of one core
    "hand-head-minor": "ts17",  # columns of a head that are apart
    "deepseek-latent": "ts17",  # keys of several heads from one latent
    "wav2vec2": "ts17",
    "timm-davit": "ts17",  # counts that are known to differ
    "sub-layer-norm": "ts17",  # refused
    "no-output-projection": "ts17",
    "early-exit": "ts17",  # layers in branches
}
"""The graphs that CI builds and checks, the same for every commit; `--all` takes all."""


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Architectures by name; exports lie in the folder that ONNXHEADPRUNE_ZOO names, else in pytest's own."""
    pytest.importorskip("torch")
    base = tmp_path_factory.getbasetemp()
    # Workers have folders of their own in that of the run.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tests.zoo.build import Original
        from tests.zoo.tables import families

    listed = {case.name: case for case in families()}
    return cache(lambda name: Original(listed[name], Path(os.environ.get(PLACE) or shared / "zoo")))


def exported(original: Original, variant: str, config: pytest.Config) -> Path:
    """Export an architecture. What no exporter or runtime makes of it is skipped with `--all` alone: CI names none."""
    from tests.zoo.build import NotBuiltError

    try:
        return original.export(variant)
    except NotBuiltError as problem:
        if not config.getoption("all"):
            raise
        pytest.skip(str(problem))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each graph; of all of them only where they were asked for: listing them imports torch."""
    if "graph" not in metafunc.fixturenames:
        return
    graphs = [(case, variant) for case, variants in GUARDS.items() for variant in variants.split()]
    if metafunc.config.getoption("all") and metafunc.config.getoption("markexpr") == "samples":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tests.zoo.tables import families, variants_of

            graphs = [
                (case.name, variant)
                for case in families()
                for variant in variants_of("all" if case.name in REPRESENTATIVES else "quick")
            ]
    metafunc.parametrize("graph", graphs, ids=[f"{case}.{variant}" for case, variant in graphs])
