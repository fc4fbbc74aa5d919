"""The settings of one call each, as a function of Python takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from onnxheadprune.settings.cutting import (
    Cut,
    Drift,
    Recover,
    Recovering,
    Resume,
    Scoring,
    Selecting,
    Time,
    Unit,
    unit_kinds,
)
from onnxheadprune.settings.inputs import SEED_HELP, CustomOps, Dask, Jobs, Provider, Running
from onnxheadprune.settings.measuring import Benching, Metric, Rounding, Strict, Timing
from onnxheadprune.settings.setting import (
    BENCHMARK,
    CHANGES,
    EXECUTION,
    SELECTION,
    Factor,
    Natural,
    NotNegative,
    Setting,
    Text,
)
from onnxheadprune.settings.units import SCORED
from onnxheadprune.settings.writing import Checking, Deploying, FollowLinks, Replacing, Storing, Target

Mode: TypeAlias = Literal["contrib", "onnx", "auto"]
FuseMode = Annotated[
    Mode,
    Setting(
        "ONNX Runtime's own operators (contrib), the standard Attention (onnx), or the fastest on this machine (auto).",
        section=CHANGES,
    ),
]
_KINDS = [f'"{units}" of {kind.title}s' for units, kind in SCORED.items()]
ScoredUnits = Annotated[
    tuple[Unit, ...],
    Setting(
        f"What is scored: {', '.join(_KINDS)}, or several with commas between.",
        metavar="KIND,KIND",
        offers="all",
        parse=unit_kinds,
        section=SELECTION,
    ),
]
SIZES = "batch seq past dims repeats time_budget threads"
"""Settings of `Timing`."""


@dataclass(frozen=True, kw_only=True)
class Pruning(Checking, Running, Cut):
    """One cut, wherever its result goes: of a model, of those of a folder, of a job or of another tool."""

    recover: Recover = None
    time: Time = None


@dataclass(frozen=True, kw_only=True)
class FolderCall(Deploying, Pruning):
    """`prune` of a folder."""


@dataclass(frozen=True, kw_only=True)
class PruneCall(FolderCall, Target):
    """`prune`."""

    resume: Resume = False


@dataclass(frozen=True, kw_only=True)
class TimedPruneCall(Timing, PruneCall, Replacing):
    """`prune` with the sizes that a target for the speed-up is measured at."""


@dataclass(frozen=True, kw_only=True)
class FuseCall(Checking, Running, Target, Replacing):
    """`fuse`."""

    mode: FuseMode = "contrib"


@dataclass(frozen=True, kw_only=True)
class RecoverCall(Storing, Checking, Running, Recovering, Replacing):
    """`recover`."""

    resume: Resume = False


@dataclass(frozen=True, kw_only=True)
class QuantizeCall(Storing, Running, Rounding, Replacing):
    """`quantize`."""

    drift: Drift = None


@dataclass(frozen=True, kw_only=True)
class ScoreCall(Running, Scoring, Replacing):
    """`score`."""

    units: ScoredUnits = ("heads",)
    follow_links: FollowLinks = False


@dataclass(frozen=True, kw_only=True)
class SweepCall(Running, Selecting):
    """`sweep`."""

    recover: Recover = None
    time: Time = None
    jobs: Jobs = 1
    dask: Dask = None


@dataclass(frozen=True, kw_only=True)
class SelectCall(Running, Cut):
    """`select_heads`."""


@dataclass(frozen=True, kw_only=True)
class ValidateCall(Timing, Running):
    """`validate`."""

    SECTION: ClassVar[str] = SELECTION

    heads: Annotated[
        Text | None,
        Setting("The removed heads, if the metadata of PRUNED does not specify them.", metavar="H"),
    ] = None
    metric: Metric = None
    max_drift: Annotated[
        NotNegative | None,
        Setting(
            "Reject if the drift of the main output from the unmasked MODEL, on {data} if given, is larger;"
            " see {drift}.",
            metavar="X",
        ),
    ] = None
    drift: Drift = None
    strict: Strict = False
    min_speedup: Annotated[
        Factor | None,
        Setting(
            "Also measure latency as `bench` does; reject unless PRUNED is X times as fast at every size.",
            metavar="X",
            section=BENCHMARK,
        ),
    ] = None
    follow_links: FollowLinks = False


@dataclass(frozen=True, kw_only=True)
class InspectCall:
    """`inspect`."""

    follow_links: FollowLinks = False


@dataclass(frozen=True, kw_only=True)
class BenchCall(Benching):
    """`bench`."""

    provider: Provider = "auto"
    custom_ops: CustomOps = None
    seed: Annotated[Natural, Setting(SEED_HELP, metavar="N", section=EXECUTION)] = 0
    min_speedup: Annotated[
        Factor | None,
        Setting(
            "Reject unless every PRUNED is at least X times as fast as MODEL at every size.",
            metavar="X",
            section=BENCHMARK,
        ),
    ] = None
    follow_links: FollowLinks = False
