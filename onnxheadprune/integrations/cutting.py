"""One cut as the settings of another tool specify it: of a file into a file, or of a folder into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from onnxheadprune.deploying.folders.prune import prune_folder
from onnxheadprune.errors import UsageError
from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.settings.cutting import AMOUNT, TOKENS, UNITS, Cut
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.registry import METHODS, REMOVED, WITHOUT_DATA
from onnxheadprune.settings.setting import Declared, Setting, Share, WithUnit, declared
from onnxheadprune.settings.writing import AcceptInconclusive, Runtime, Storing
from onnxheadprune.workflow.pipeline import run_prune

MEASURED = "measured"
"""The method that measures cuts on the data; without data it goes by the weights."""
SelectionMethod: TypeAlias = Literal[("measured", *METHODS)]  # type: ignore[valid-type]  # one list of methods
NO_DATA = (MEASURED, *WITHOUT_DATA)
"""Methods that work without data."""


@dataclass(frozen=True, kw_only=True)
class PassKeys(Storing):
    """Parameters of a pass that mean something else on the command line, or that it has for folders."""

    ratio: Annotated[
        Share | None,
        Setting("Share of all heads to remove, where nothing else specifies what to remove."),
    ] = 0.25
    whole_groups: Annotated[
        bool,
        Setting(
            "Remove whole KV groups, the same share of every layer, and not heads wherever they cost least."
        ),
    ] = False
    method: Annotated[
        SelectionMethod,
        Setting("How units are selected; without data, measured goes by the weights.", removed=REMOVED),
    ] = "measured"
    runtime: Runtime = None
    accept_inconclusive: AcceptInconclusive = False


GROUPS = (Cut, Running, PassKeys)


def parameters(*groups: type[Any]) -> dict[str, Declared]:
    """The settings of dataclasses by name; of two of the same name that of the later one."""
    return {name: item for group in groups for name, item in declared(group).items()}


PARAMETERS = parameters(*GROUPS)
"""All parameters of a pass; those of `PassKeys` replace others of the same name."""


def type_of(item: Declared) -> Any:
    """The type in which another tool gives the value of a parameter: a number, or text as on the command line."""
    if isinstance(item.bounds, WithUnit):
        return float | str
    return item.kind if item.kind in (bool, int, float) else str


def default_of(item: Declared) -> Any:
    """The default of a parameter in that type; None where it has none, or one that text does not express."""
    default = ",".join(item.default) or None if isinstance(item.default, tuple) else item.default
    return default if isinstance(default, bool | int | float | str) else None


def call_of(values: Mapping[str, Any], feeds: object = None) -> PruneCall:
    """The call that values by name mean, as another tool has read them; what is None has its default.

    Args:
        feeds: inputs that are no setting, None without.
    """
    given = {name: _value(PARAMETERS[name], value) for name, value in values.items() if value is not None}
    own = {name: given.pop(name, item.default) for name, item in declared(PassKeys).items()}
    ratio, method, whole_groups = (own.pop(name) for name in ("ratio", "method", "whole_groups"))
    if not any(name in given for name in f"{UNITS} {TOKENS} exit {AMOUNT}".split()):
        given["ratio"] = ratio
    amounts = [name for name in AMOUNT.split() if name in given]
    if len(amounts) > 1:
        raise UsageError(f"{' and '.join(amounts)} are mutually exclusive")
    if amounts and method != MEASURED:
        given["method"] = method
    if feeds is not None and "data" in given:
        raise UsageError("data and data_config are mutually exclusive")
    if feeds is not None:
        given["data"] = feeds
    if whole_groups:
        given |= {"uniform": True, "whole_groups": True}
    return PruneCall(**given, **own)


def _value(item: Declared, value: Any) -> Any:
    """A value in the type of its setting. Olive makes a path of a word, where there is a file of that name."""
    if isinstance(value, Path) and item.kind is not Path and item.name != "data":
        value = value.name
    try:
        return item.read(value)
    except UsageError:
        if not isinstance(value, str) or not Path(value).is_absolute():
            raise
        return item.read(Path(value).name)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cut."""

    heads: Mapping[int, tuple[int, ...]]  # per number of a site, in indices of the original model
    warnings: tuple[str, ...]  # what its user should know


def cut(source: Path, output: Path, call: PruneCall) -> Outcome:
    """Prune a file or a folder, and prove the result."""
    call = replace(call, output=output)
    if source.is_dir():
        folder = prune_folder(source, call, step="HeadPruning")
        return Outcome(folder.heads, folder.warnings)
    result = run_prune(source, call)
    return Outcome(result.plan.removed, result.warnings)
