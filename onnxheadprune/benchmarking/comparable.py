"""Does ONNX Runtime run two models in the same way? If not, their latencies compare more than the cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from onnxheadprune.model.graph.facts import STANDS_FOR_PATTERN
from onnxheadprune.runtime import CPU, SUFFIX

CACHE_LAYOUT = ("ReorderInput", "ReorderOutput")


class _Named(NamedTuple):
    """An operator by its name."""

    domain: str
    op_type: str


def _is_fused(operator: str) -> bool:
    """Return whether an operator of an optimized graph ("Softmax", "com.microsoft:BiasGelu") stands for several."""
    domain, _, op_type = operator.rpartition(":")
    return op_type not in CACHE_LAYOUT and (bool(domain) or _Named("", op_type) in STANDS_FOR_PATTERN)


def fused(operators: Mapping[str, int]) -> dict[str, int]:
    """The fused part of a histogram."""
    return {name: count for name, count in operators.items() if _is_fused(name)}


def differences(
    reference: Mapping[str, int],
    candidate: Mapping[str, int],
    reference_placement: Mapping[str, int],
    candidate_placement: Mapping[str, int],
    sites_gone: int = 0,
) -> tuple[str, ...]:
    """Return why two optimized graphs are not the same program but for its widths; empty where they are.

    Args:
        reference: histogram of the first model's optimized graph; empty where it is not known.
        candidate: the same of the other model.
        reference_placement: nodes of the first model per execution provider.
        candidate_placement: the same of the other model.
        sites_gone: sites that the other model lost as a whole, with their fused operators.
    """
    found: list[str] = []
    if reference and candidate:
        found += _fused_differences(fused(reference), fused(candidate), sites_gone)
    found += _placement_differences(reference_placement, candidate_placement)
    return tuple(found)


def _fused_differences(
    reference: Mapping[str, int], candidate: Mapping[str, int], sites_gone: int
) -> Iterator[str]:
    for name in sorted(reference.keys() | candidate.keys()):
        before, after = reference.get(name, 0), candidate.get(name, 0)
        # A site that is gone takes its fused operators along: one or two of a kind (scores and context).
        if after == before or (after and 0 < before - after <= 2 * sites_gone):
            continue
        if not after and 0 < before <= sites_gone:
            continue
        yield f"ONNX Runtime fuses {before} {name} in the first model and {after} in this one"


def _placement_differences(reference: Mapping[str, int], candidate: Mapping[str, int]) -> Iterator[str]:
    if not reference or not candidate:
        return
    if reference.keys() != candidate.keys():
        yield (
            f"the nodes of the first model run on {_names(reference)}, those of this one on {_names(candidate)}"
        )
    elif len(reference) > 1 and candidate.get(CPU, 0) > reference.get(CPU, 0):
        yield (f"{candidate.get(CPU, 0)} nodes landed on the CPU, {reference.get(CPU, 0)} of the first model")


def _names(placement: Mapping[str, int]) -> str:
    return " and ".join(name.removesuffix(SUFFIX) for name in sorted(placement))
