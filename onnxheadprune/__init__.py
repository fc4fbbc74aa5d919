"""Remove attention heads from exported ONNX transformers: exactly, safely and measurably.

    import onnxheadprune as ohp

    for site in ohp.inspect("model.onnx"):
        print(site.index, site.name, site.num_heads)
    result = ohp.prune("model.onnx", "pruned.onnx", heads="0:1,3 5:0-3")

Names are loaded when they are first used, so importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from onnxheadprune import errors

if TYPE_CHECKING:
    from onnxheadprune.api.functions import (
        apply_plan,
        bench,
        inspect,
        plan_pruning,
        prune,
        prune_folder,
        quantize,
        recover,
        score,
        select_heads,
        sweep,
        validate,
        write_scores,
    )
    from onnxheadprune.attention.sites.all_sites import AttentionSite, Sites
    from onnxheadprune.attention.sites.site import NearMiss
    from onnxheadprune.benchmarking.measure import Ratio
    from onnxheadprune.benchmarking.result import Benchmark, Cell, Comparison, GridPoint, Latency, ModelFacts
    from onnxheadprune.choosing.compensation.record import Compensation, Refit
    from onnxheadprune.choosing.scoring.scores import HeadScores, SiteScores, read_scores
    from onnxheadprune.choosing.space import Selection
    from onnxheadprune.data.calibration import Calibration
    from onnxheadprune.deploying.folders.result import FolderResult
    from onnxheadprune.edit.plan import PlannedEdit, PrunePlan, SiteCut
    from onnxheadprune.errors import (
        HeadPruneError,
        InferenceError,
        ModelError,
        ProviderError,
        RefusedError,
        UsageError,
        ValidationFailedError,
    )
    from onnxheadprune.fusion.result import Fusion, SiteFusion
    from onnxheadprune.liveness.refusals import Reason, Refusal
    from onnxheadprune.model.storage.tensors import StoredSize
    from onnxheadprune.reporting.pictures.draw import plot_curve, plot_heads, plot_latency
    from onnxheadprune.training.result import Recovery
    from onnxheadprune.validation.figures import Accuracy, Drift, MetricResult
    from onnxheadprune.validation.result import CaseResult, Validation
    from onnxheadprune.workflow.choice.chosen import Chosen
    from onnxheadprune.workflow.curve import Curve, CurvePoint
    from onnxheadprune.workflow.inspection import EarlyExit, EarlyExits, find_exits
    from onnxheadprune.workflow.quantize import QuantizeResult
    from onnxheadprune.workflow.result import PruneResult

__version__ = "0.2.0"

__all__ = [
    "Accuracy",
    "AttentionSite",
    "Benchmark",
    "Calibration",
    "CaseResult",
    "Cell",
    "Chosen",
    "Comparison",
    "Compensation",
    "Curve",
    "CurvePoint",
    "Drift",
    "EarlyExit",
    "EarlyExits",
    "FolderResult",
    "Fusion",
    "GridPoint",
    "HeadPruneError",
    "HeadScores",
    "InferenceError",
    "Latency",
    "MetricResult",
    "ModelError",
    "ModelFacts",
    "NearMiss",
    "PlannedEdit",
    "ProviderError",
    "PrunePlan",
    "PruneResult",
    "QuantizeResult",
    "Ratio",
    "Reason",
    "Recovery",
    "Refit",
    "Refusal",
    "RefusedError",
    "Selection",
    "SiteCut",
    "SiteFusion",
    "SiteScores",
    "Sites",
    "StoredSize",
    "UsageError",
    "Validation",
    "ValidationFailedError",
    "__version__",
    "apply_plan",
    "bench",
    "find_exits",
    "inspect",
    "plan_pruning",
    "plot_curve",
    "plot_heads",
    "plot_latency",
    "prune",
    "prune_folder",
    "quantize",
    "read_scores",
    "recover",
    "score",
    "select_heads",
    "sweep",
    "validate",
    "write_scores",
]

_HOMES = {
    "api.functions": (
        "apply_plan",
        "bench",
        "inspect",
        "plan_pruning",
        "prune",
        "prune_folder",
        "quantize",
        "recover",
        "score",
        "select_heads",
        "sweep",
        "validate",
        "write_scores",
    ),
    "deploying.folders.result": ("FolderResult",),
    "workflow.inspection": (
        "EarlyExit",
        "EarlyExits",
        "find_exits",
    ),
    "workflow.quantize": ("QuantizeResult",),
    "workflow.curve": (
        "Curve",
        "CurvePoint",
    ),
    "reporting.pictures.draw": ("plot_curve", "plot_heads", "plot_latency"),
    "workflow.result": ("PruneResult",),
    "model.storage.tensors": ("StoredSize",),
    "benchmarking.result": (
        "Benchmark",
        "Cell",
        "Comparison",
        "GridPoint",
        "Latency",
        "ModelFacts",
    ),
    "benchmarking.measure": ("Ratio",),
    "data.calibration": ("Calibration",),
    "workflow.choice.chosen": ("Chosen",),
    "choosing.compensation.record": (
        "Compensation",
        "Refit",
    ),
    "training.result": ("Recovery",),
    "choosing.scoring.scores": (
        "HeadScores",
        "SiteScores",
        "read_scores",
    ),
    "choosing.space": ("Selection",),
    "errors": (
        "HeadPruneError",
        "InferenceError",
        "ModelError",
        "ProviderError",
        "RefusedError",
        "UsageError",
        "ValidationFailedError",
    ),
    "fusion.result": (
        "Fusion",
        "SiteFusion",
    ),
    "edit.plan": ("PlannedEdit", "PrunePlan", "SiteCut"),
    "liveness.refusals": (
        "Reason",
        "Refusal",
    ),
    "attention.sites.all_sites": ("AttentionSite", "Sites"),
    "attention.sites.site": ("NearMiss",),
    "validation.result": (
        "Accuracy",
        "CaseResult",
        "Drift",
        "MetricResult",
        "Validation",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
