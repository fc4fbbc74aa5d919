"""The settings of one call each, as a function of Python takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias

from onnxheadprune.settings.cutting import (
    NO_DATA,
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
from onnxheadprune.settings.inputs import RANDOM, SEED_HELP, CustomOps, Dask, Jobs, Provider, Running
from onnxheadprune.settings.measuring import Benching, Metric, Rounding, Strict, Timing
from onnxheadprune.settings.setting import (
    BENCHMARK,
    EXECUTION,
    SELECTION,
    Factor,
    Natural,
    NotNegative,
    Rule,
    Setting,
    Text,
    declared,
    requires,
)
from onnxheadprune.settings.units import SCORED
from onnxheadprune.settings.writing import (
    Checking,
    Deploying,
    FollowLinks,
    Output,
    Storing,
    Target,
)

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
Rules: TypeAlias = Mapping[str, Rule]
"""Rules of one call alone, by the names of settings with spaces between them."""
OF_RANDOM_DATA: Rules = {"seed": requires("data=random")}


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
    # no setting: a runtime, or a pass of another tool, asks for it
    whole_groups: bool = False

    def into(self, output: Path | None) -> PruneCall:
        """The same cut, written elsewhere and in place of nothing."""
        return replace(self, output=output, in_place=False, backup=None)

    @property
    def takes_whole_groups(self) -> bool:
        """True if KV heads are removed with all their query heads."""
        return self.whole_groups


@dataclass(frozen=True, kw_only=True)
class TimedPruneCall(Timing, PruneCall):
    """`prune` with the sizes that a target for the speed-up is measured at."""

    RULES: ClassVar[Rules] = {SIZES: requires("target_speedup")}


@dataclass(frozen=True, kw_only=True)
class RecoverCall(Storing, Checking, Running, Recovering):
    """`recover`."""

    IMPLIES: ClassVar[str] = "recover"

    output: Output = None
    resume: Resume = False

    @property
    def as_prune(self) -> PruneCall:
        """The same training as a part of `prune`."""
        given = dict(vars(self))
        return PruneCall(recover=given.pop("budget"), **given)


@dataclass(frozen=True, kw_only=True)
class QuantizeCall(Storing, Running, Rounding):
    """`quantize`: nothing runs but where drift is measured."""

    RULES: ClassVar[Rules] = {"drift provider": requires("data"), **OF_RANDOM_DATA}

    output: Output = None
    drift: Drift = None


@dataclass(frozen=True, kw_only=True)
class ScoreCall(Running, Scoring):
    """`score`."""

    RULES: ClassVar[Rules] = {"data": NO_DATA, **OF_RANDOM_DATA}

    units: ScoredUnits = ("heads",)
    follow_links: FollowLinks = False


@dataclass(frozen=True, kw_only=True)
class SweepCall(Running, Selecting):
    """`sweep`."""

    IMPLIES: ClassVar[str] = "ratio"
    RULES: ClassVar[Rules] = {"seed": requires("data=random recover time")}

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
    RULES: ClassVar[Rules] = {SIZES: requires("min_speedup")}

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


def named_by(call: Any) -> dict[str, Any]:
    """The settings of a call that name what it reads: files, and "module:function"."""
    known = declared(type(call))
    return {
        name: value
        for name, value in vars(call).items()
        if value not in (None, RANDOM) and name in known and not known[name].setting.creates
        if known[name].kind is Path or name == "data" or is_function(value) or str(value).endswith(".json")
    }


def is_function(value: object) -> bool:
    """Return whether a value is "module:function", and no path."""
    module, colon, function = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))
