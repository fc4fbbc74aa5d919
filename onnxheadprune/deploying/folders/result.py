"""Results for a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxheadprune.attention.sites import kinds
from onnxheadprune.attention.sites.kinds import key_of
from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.deploying.clients.contract import ConfigChange
from onnxheadprune.deploying.folders.matching import Match, SharedSite
from onnxheadprune.edit.ranges import spelled
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.spelling import count, many
from onnxheadprune.validation.headline import Headline, headline_of
from onnxheadprune.workflow.result import PruneResult

if TYPE_CHECKING:
    from onnxheadprune.data.respelled import Spelling
    from onnxheadprune.workflow.vocabulary.otherwise import Otherwise


@dataclass(frozen=True, eq=False)
class FileResult:
    """A model of the folder that was cut.

    Attributes:
        name: its path in the folder.
        leads: whether heads were chosen on it.
    """

    name: str
    leads: bool
    result: PruneResult


@one_line("folder output runtime files heads warnings")
@dataclass(frozen=True, eq=False)
class FolderResult:
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
        """Whether all models are exact, good enough and accepted."""
        verdicts = [
            None if item.result.validation is None else item.result.validation.to_dict() | {"file": item.name}
            for item in self.files
        ]
        return headline_of(verdicts, [gate for item in self.files for gate in item.result.gates])

    @property
    def removed(self) -> tuple[str, ...]:
        """How many units went, a part for each kind: "5 of 12 heads"."""
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
        """How much of the data the tokens that are kept spell as before, by the first model that reads them."""
        return next((item.result.spelling for item in self.files if item.result.spelling is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "folder": self.folder,
            "output": self.output,
            "headline": self.headline.to_dict(),
            "runtime": self.runtime,
            **_gone_to_dict(self.heads),
            **sites_to_dict(self.match),
            "files": [
                {"file": item.name, "leads": item.leads, **item.result.to_dict()} for item in self.files
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
    """A site of an export as JSON-ready data: as `inspect` gives a site, and which files hold it."""
    places = {name: list(indices) for name, indices in item.places.items()}
    return item.site.to_dict() | {"network": item.network, "files": places}
