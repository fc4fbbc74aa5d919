"""A validation by the limits of its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from onnxheadprune.data.sources import read_data
from onnxheadprune.model.load import ModelLike, open_structure
from onnxheadprune.settings.calls import BenchCall, ValidateCall
from onnxheadprune.settings.measuring import Timing
from onnxheadprune.settings.setting import part_of
from onnxheadprune.validation.claim import require_recorded
from onnxheadprune.validation.proof import prove
from onnxheadprune.validation.result import Validation, drift_gate, strict_gate
from onnxheadprune.workflow.requests import measure_of


def run_validation(
    original: ModelLike,
    pruned: ModelLike,
    given: ValidateCall,
    progress: Callable[[str], object] = lambda _: None,
    *,
    in_folder: bool = False,
) -> Validation:
    """Prove a pruned model, and judge it by the limits that were set.

    Args:
        in_folder: the model is one of several, some of which may use only a part of the data.
    """
    original, pruned = (open_structure(item, follow_links=given.follow_links) for item in (original, pruned))
    data = read_data(original, given, in_folder=in_folder)
    if given.heads is not None:
        require_recorded(original, pruned, given.heads)
    result = prove(original, pruned, replace(given, drift=cast("str", measure_of(given.drift))), data)
    gates = [] if given.max_drift is None else [drift_gate(result.drift, given.max_drift)]
    gates += [strict_gate(result.pruned, result.exact)] if given.strict else []
    measured = None
    if given.min_speedup is not None and result.passed:
        from onnxheadprune.benchmarking.runner import run_benchmark

        progress("measuring")
        bench = BenchCall(
            **vars(part_of(Timing, given)), seed=given.seed, memory=False, min_speedup=given.min_speedup
        )
        measured = run_benchmark((original, pruned), bench, progress, provider=result.provider)
        gates += measured.gates
    return replace(result, gates=tuple(gates), benchmark=measured)
