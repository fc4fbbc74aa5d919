"""One cut as the settings of another tool specify it: of a file into a file, or of a folder into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

from onnxheadprune.deploying.clients.all import client_named
from onnxheadprune.deploying.folders.prune import prune_folder
from onnxheadprune.deploying.folders.types import FolderRequest, reader_of
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import open_structure
from onnxheadprune.settings.calls import Pruning
from onnxheadprune.settings.cutting import AMOUNT, TOKENS, UNITS, Cut
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.registry import METHODS, WITHOUT_DATA
from onnxheadprune.settings.setting import Declared, Setting, Share, WithUnit, declared, part_of
from onnxheadprune.settings.writing import AcceptInconclusive, Runtime, Storing
from onnxheadprune.workflow.pipeline import run_prune
from onnxheadprune.workflow.requests import Request, Writing

if TYPE_CHECKING:
    from onnxheadprune.deploying.folders.types import Data

Group = TypeVar("Group")
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
        Setting("How units are selected; without data, measured goes by the weights."),
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


@dataclass(frozen=True)
class Settings:
    """The arguments of a pass."""

    cut: Cut
    running: Running
    own: PassKeys  # what the pass has of its own
    feeds: Data = None  # inputs that are no setting, None without

    @property
    def given_inputs(self) -> tuple[object, ...]:
        """The inputs that are given, each in its way; more than one contradict each other."""
        return tuple(item for item in (self.feeds, self.running.data) if item is not None)


def settings_of(values: Mapping[str, Any], feeds: Data = None) -> Settings:
    """Settings from values by name, as another tool has read them; what is None has its default."""
    given = {name: _value(PARAMETERS[name], value) for name, value in values.items() if value is not None}
    own = _group(PassKeys, given)
    cut = _group(Cut, {name: value for name, value in given.items() if name not in declared(PassKeys)})
    specified = [getattr(cut, name) for name in f"{UNITS} {TOKENS} exit {AMOUNT}".split()]
    if all(item is None for item in specified):
        cut = replace(cut, ratio=own.ratio)
    if any(getattr(cut, name) is not None for name in AMOUNT.split()) and own.method != MEASURED:
        cut = replace(cut, method=own.method)
    settings = Settings(cut, _group(Running, given), own, feeds)
    if len(settings.given_inputs) > 1:
        raise UsageError("data and data_config are mutually exclusive")
    return settings


def _group(group: type[Group], values: Mapping[str, Any]) -> Group:
    return group(**{name: values[name] for name in declared(group) if name in values})


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


def cut(source: Path, output: Path, settings: Settings) -> Outcome:
    """Prune a file or a folder, and prove the result."""
    return _folder(source, output, settings) if source.is_dir() else _file(source, output, settings)


def _file(source: Path, output: Path, settings: Settings) -> Outcome:
    if settings.own.runtime is not None:
        raise UsageError("runtime requires a folder, whose configuration it updates; this model is a file")
    model = open_structure(source)
    data = reader_of(source.parent, settings.running, settings.feeds)(model)
    result = run_prune(model, _request(settings, data, output))
    return Outcome(result.plan.removed, result.warnings)


def _folder(source: Path, output: Path, settings: Settings) -> Outcome:
    client = None if settings.own.runtime is None else client_named(settings.own.runtime)
    read = reader_of(source, settings.running, settings.feeds) if settings.given_inputs else None
    request = FolderRequest(_request(settings, None, output), client, read=read, step="HeadPruning")
    result = prune_folder(source, request)
    return Outcome(result.heads, result.warnings)


def _request(settings: Settings, data: Data, output: Path) -> Request:
    own = settings.own
    given = Pruning(
        **vars(settings.cut), **vars(settings.running), accept_inconclusive=own.accept_inconclusive
    )
    request = Request.of(given, Writing(output, part_of(Storing, own))).on(data)
    target = request.choice.target
    if target is None or not own.whole_groups:
        return request
    limits = replace(target.limits, uniform=True, whole_groups=True)
    return replace(request, choice=replace(request.choice, target=replace(target, limits=limits)))
