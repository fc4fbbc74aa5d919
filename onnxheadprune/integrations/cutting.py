"""One cut as the settings of another tool ask for it: of a file into a file, or of a folder into a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.attention.contract import Contract
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import open_structure
from onnxheadprune.selection import Limits
from onnxheadprune.selection.scoring import METHODS, HeadScores, score_heads
from onnxheadprune.selection.wishes import Wish
from onnxheadprune.workflow.clients.all import client_named
from onnxheadprune.workflow.folders.asked import FolderRequest
from onnxheadprune.workflow.folders.opening import opened
from onnxheadprune.workflow.folders.prune import prune_folder
from onnxheadprune.workflow.pipeline import carried_through
from onnxheadprune.workflow.requests import Choice, Request, Run, Writing

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.feeds import DataSource
    from onnxheadprune.workflow.folders.asked import Data

MEASURED = "measured"
"""The method that measures cuts on the data; without data it goes by the weights."""
WAYS = (MEASURED, *METHODS)
NO_DATA = (MEASURED, "weight")
"""Methods that work without data."""
UNITS = ("heads", "groups")
"""What goes at a time: single heads wherever they cost least, or whole KV groups, the same share from every site."""


@dataclass(frozen=True)
class Calibrating:
    """What heads are measured on.

    Attributes:
        data: as `--data` takes it, or feeds.
        text: a file with one sample a line.
        tokenizer: for the text; None takes the one beside the model.
        max_length: tokens of a line that are used.
    """

    data: DataSource | None = None
    text: str | None = None
    tokenizer: str | None = None
    max_length: int = 128

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return self.data is not None or self.text is not None


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Attributes:
        heads: a head spec; then ratio, units and method do not count.
        ratio: share of all heads to remove.
        units: one of `UNITS`.
        method: one of `WAYS`.
        compensate: refit what is left; None does so where there is data.
        calibrating: what heads are measured on.
        client: what a folder is for, as `--for` takes it.
        contract: what may happen to caches.
        provider: where models run.
    """

    heads: str | None = None
    ratio: float | None = None
    units: str = UNITS[0]
    method: str = MEASURED
    compensate: bool | None = None
    calibrating: Calibrating = field(default_factory=Calibrating)
    client: str | None = None
    contract: Contract = field(default_factory=Contract)
    provider: str = "auto"

    def __post_init__(self) -> None:
        if (self.heads is None) == (self.ratio is None):
            raise UsageError("name the heads that go, or the ratio of heads, and not both")
        if self.units not in UNITS:
            raise UsageError(f"units are {' or '.join(UNITS)}, not {self.units!r}")
        if self.method not in WAYS:
            raise UsageError(f"there is no method {self.method!r}; there are {', '.join(WAYS)}")


@dataclass(frozen=True)
class Outcome:
    """What a cut has removed.

    Attributes:
        heads: per number of a site, in indices of the original model.
        warnings: what its user should know.
    """

    heads: Mapping[int, tuple[int, ...]]
    warnings: tuple[str, ...]


def cut(source: Path, output: Path, settings: Settings) -> Outcome:
    """Prunes a file or a folder, and proves the result.

    Args:
        source: a model, or a folder of models that belong together.
        output: a file, or a folder that is not there yet.
        settings: what is asked for.

    Raises:
        HeadPruneError: as `prune` does. Nothing is written then.
    """
    return _folder(source, output, settings) if source.is_dir() else _file(source, output, settings)


def _file(source: Path, output: Path, settings: Settings) -> Outcome:
    if settings.client is not None:
        raise UsageError(
            "a client is asked about a folder, whose configuration follows the cut; this model is a file"
        )
    model = open_structure(source)
    data = _reader(source.parent, settings)(model)
    scores = _scores(model, data, settings)
    request = _request(settings, scores, Run(settings.provider, data=data), output)
    result = carried_through(model, request)
    return Outcome(result.plan.removed, result.warnings)


def _folder(source: Path, output: Path, settings: Settings) -> Outcome:
    read = _reader(source, settings)
    scores = None
    if settings.ratio is not None and settings.method != MEASURED:
        _, match = opened(source)
        leader = match.networks[0].leader.loaded
        scores = _scores(leader, read(leader), settings)
    client = None if settings.client is None else client_named(settings.client)
    request = _request(settings, scores, Run(settings.provider), output)
    given = read if settings.calibrating.given else None
    result = prune_folder(source, FolderRequest(request, client, read=given))
    return Outcome(result.heads, result.warnings)


def _request(settings: Settings, scores: HeadScores | None, run: Run, output: Path) -> Request:
    groups = settings.units == "groups"
    limits = Limits(uniform=groups, whole_groups=groups)
    wish = None if settings.ratio is None else Wish(ratio=settings.ratio, scores=scores, limits=limits)
    choice = Choice(settings.heads, wish, settings.compensate)
    return Request(choice, settings.contract, run=run, writing=Writing(output))


def _scores(model: LoadedModel, data: Data, settings: Settings) -> HeadScores | None:
    """What heads are worth by the method that is asked for; None where cuts are measured, or heads are named."""
    if settings.ratio is None:
        return None
    for method in METHODS:
        if method == settings.method:
            return score_heads(model, method=method, data=data, provider=settings.provider)
    return None


def _reader(folder: Path, settings: Settings) -> Callable[[LoadedModel], Data]:
    """Reads the data for one model.

    Args:
        folder: where a tokenizer is looked for if none lies beside the model.
        settings: what is asked for.
    """
    calibrating = settings.calibrating

    def read(model: LoadedModel) -> Data:
        if not calibrating.given:
            return None
        if calibrating.data is not None and calibrating.text is not None:
            raise UsageError("give data or text, not both")
        from onnxheadprune.attention.sites.find import view_of
        from onnxheadprune.runtime.feeds import graph_inputs
        from onnxheadprune.runtime.providers import resolve_provider
        from onnxheadprune.selection.activations import beside, needs_others, supplied, text_feeds
        from onnxheadprune.selection.activations.beside import tokenizer_of

        inputs = graph_inputs(view_of(model.proto, model.name, model.sources))
        near = beside(model.path, resolve_provider(settings.provider))
        if calibrating.text is None:
            others = needs_others(item.name for item in model.proto.graph.input)
            data = calibrating.data
            return data if data is None or not others else supplied(data, inputs, near)
        own = None if model.path is None else tokenizer_of(model.path)
        tokenizer = calibrating.tokenizer or own or folder
        length = calibrating.max_length
        return text_feeds(calibrating.text, tokenizer, inputs, max_length=length, beside=near)

    return read
