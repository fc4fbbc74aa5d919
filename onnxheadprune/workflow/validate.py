"""A validation by the limits of its caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from onnxheadprune.model.load import ModelLike
from onnxheadprune.settings.calls import BenchCall, ValidateCall
from onnxheadprune.settings.measuring import Timing
from onnxheadprune.settings.setting import part_of
from onnxheadprune.validation.claim import require_recorded
from onnxheadprune.validation.proof import prove
from onnxheadprune.validation.result import Validation, drift_gate, strict_gate
from onnxheadprune.workflow.requests import measure_of

if TYPE_CHECKING:
    from onnxheadprune.runtime.feeds.data import DataSource


def run_validation(
    original: ModelLike,
    pruned: ModelLike,
    given: ValidateCall,
    data: DataSource | None,
    progress: Callable[[str], object] = lambda _: None,
) -> Validation:
    """Prove a pruned model, and judge it by the limits that were set."""
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
