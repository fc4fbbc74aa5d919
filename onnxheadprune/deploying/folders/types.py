"""Requests for folders and their results, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from onnxheadprune.attention.sites import kinds
from onnxheadprune.attention.sites.attention_site import AttentionSite
from onnxheadprune.attention.sites.kinds import key_of
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.sources import data_for, read_data, with_own_tokenizer
from onnxheadprune.deploying.clients.contract import Client, ConfigChange
from onnxheadprune.deploying.folders.matching import Match, SharedSite
from onnxheadprune.model.display import Displayed, one_line
from onnxheadprune.model.facts import Facts
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.spelling import count, many, spelled
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.settings.inputs import Running
from onnxheadprune.validation.headline import Headline, headline_of
from onnxheadprune.validation.summary import result_of
from onnxheadprune.workflow.requests import Request, Tokens
from onnxheadprune.workflow.result import PruneResult

if TYPE_CHECKING:
    from onnxheadprune.data.respelled import Spelling
    from onnxheadprune.workflow.vocabulary.otherwise import Otherwise, Respelling

Data: TypeAlias = "DataSource | Calibration | None"
Reader: TypeAlias = Callable[[LoadedModel], "Data"]
"""Reads the user's data for a model of the folder."""


def reader_of(folder: Path, running: Running, feeds: DataSource | None = None) -> Reader:
    """Read data for the models of a folder, whose own tokenizer is taken for text.

    Args:
        folder: where a tokenizer is looked for if none lies beside the model.
    """
    if feeds is not None:
        return lambda model: data_for(model, feeds, running.provider)
    running = with_own_tokenizer(folder, running)
    return lambda model: read_data(model, running, in_folder=True)


@dataclass(frozen=True)
class FolderTokens:
    """The reduction of the vocabulary of a folder."""

    # what each model with a vocabulary is asked for, by its name
    files: Mapping[str, Tokens] = field(default_factory=dict)
    changes: tuple[ConfigChange, ...] = ()  # fields of configuration files that follow
    # the other files that follow, by their names: of tokenizers
    contents: Mapping[str, bytes] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()  # what the user should know
    respelling: Respelling | None = None  # the tokenizer that the models share, None without


@dataclass(frozen=True)
class FolderRequest:
    """A request for a folder."""

    # what to do with its models; `writing.output` is the new folder, None looks ahead only
    request: Request = field(default_factory=Request)
    client: Client | None = None  # what it must run in
    # what files with weights are called, `{}` in the place of the model's name; None keeps names
    data_name: str | None = None
    follow_links: bool = False  # read files through links that lead out of the folder
    # let config.json say layer by layer how many KV heads are left, as transformers 5 reads it
    per_layer: bool = False
    read: Reader | None = None  # reads data for one of its models; None without data
    # what repeats the call, for the model card: a command line, or a line of Python
    command: str | None = None
    # the pass that this is of a pipeline, whose later passes may change the models; None outside of one
    step: str | None = None


@dataclass(frozen=True, eq=False)
class FileResult:
    """A model of the folder that was cut."""

    name: str  # its path in the folder
    leads: bool  # whether heads were chosen on it
    result: PruneResult


@one_line("folder output runtime files heads warnings")
@dataclass(frozen=True, eq=False)
class FolderResult(Displayed):
    """A pruned folder and how it came about.

    Attributes:
        folder: the folder that was read.
        output: the folder that was written, None if none was.
        runtime: what it was made for, None for nothing in particular.
        match: which sites belong together.
        heads: heads and other units that went, per index of a site in the export.
        files: the models that lost some.
        copied: every other file, as it was.
        changes: fields of configuration files that followed.
        card: whether its README.md is a model card that says what was removed.
        warnings: what its user should know.
        rewritten: files of tokenizers that followed.
        otherwise: how far outputs move on texts that are spelled otherwise; None where there are none, or no data.
    """

    folder: str
    output: str | None
    runtime: str | None
    match: Match
    heads: Mapping[int, tuple[int, ...]]
    files: tuple[FileResult, ...]
    copied: tuple[str, ...]
    changes: tuple[ConfigChange, ...]
    card: bool
    warnings: tuple[str, ...]
    rewritten: tuple[str, ...] = ()
    otherwise: Otherwise | None = None

    @property
    def headline(self) -> Headline:
        """The verdicts on all models: exact, good enough, accepted."""
        verdicts = [
            None if item.result.validation is None else item.result.validation.to_dict() | {"file": item.name}
            for item in self.files
        ]
        return headline_of(verdicts, [gate for item in self.files for gate in item.result.gates])

    @property
    def removed(self) -> tuple[str, ...]:
        """Counts of removed units, a part for each kind: "5 of 12 heads"."""
        parts = []
        for kind in self.match.kinds:
            held = self.match.of_kind(kind)
            before = sum(item.site.num_units for item in held)
            gone = sum(len(self.heads.get(item.index, ())) for item in held)
            if gone:
                parts.append(f"{count(gone)} of {many(before, kind.UNIT)}")
        cuts = (item.result.plan.vocabulary for item in self.files)
        tokens = next((cut for cut in cuts if cut is not None), None)
        if tokens is not None:
            gone = tokens.tokens.rows - tokens.left
            parts.append(f"{count(gone)} of {many(tokens.tokens.rows, 'token')}")
        return tuple(parts)

    @property
    def spelling(self) -> Spelling | None:
        """The part of the data that the kept tokens spell as before, by the first model that reads them."""
        return next((item.result.spelling for item in self.files if item.result.spelling is not None), None)

    def facts(self) -> Facts:
        """The gains and costs of the cut."""
        return result_of(self.summary(), self.headline).facts()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return self._told([item.result.to_dict() for item in self.files])

    def summary(self) -> dict[str, object]:
        """JSON-ready data without the differences between models."""
        return self._told([item.result.summary() for item in self.files])

    def _told(self, results: list[dict[str, Any]] | list[dict[str, object]]) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "output": self.output,
            "headline": self.headline.to_dict(),
            "runtime": self.runtime,
            **_gone_to_dict(self.heads),
            **sites_to_dict(self.match),
            "files": [
                {"file": item.name, "leads": item.leads, **told}
                for item, told in zip(self.files, results, strict=True)
            ],
            "copied": list(self.copied),
            "config_changes": [change.to_dict() for change in self.changes],
            "rewritten": list(self.rewritten),
            "spelling": None if self.spelling is None else self.spelling.to_dict(),
            "spelled_otherwise": None if self.otherwise is None else self.otherwise.to_dict(),
            "card": self.card,
            "warnings": list(self.warnings),
        }


def _gone_to_dict(gone: Mapping[int, tuple[int, ...]]) -> dict[str, Any]:
    """Return what went, as JSON-ready data: heads by the numbers of their sites, other units by keys, as ranges."""
    found: dict[str, Any] = {
        kind.UNITS: {key_of(i): spelled(units) for i, units in sorted(gone.items()) if kind.owns(i)}
        for kind in kinds.KINDS
    }
    heads = {str(i): list(units) for i, units in sorted(gone.items()) if AttentionSite.owns(i)}
    return {AttentionSite.UNITS: heads, **found}


def sites_to_dict(match: Match) -> dict[str, Any]:
    """The sites of an export as JSON-ready data, a list for each kind that was matched."""
    return {kind.FIELD: [_shared_to_dict(item) for item in match.of_kind(kind)] for kind in match.kinds}


def _shared_to_dict(item: SharedSite) -> dict[str, Any]:
    places = {name: list(indices) for name, indices in item.places.items()}
    return item.site.to_dict() | {"network": item.network, "files": places}
