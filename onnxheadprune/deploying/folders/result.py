"""The result of `prune` of a folder, and the model card that tells of it: a section, followed by the original card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from onnxheadprune.deploying.clients.contract import ConfigChange
from onnxheadprune.deploying.folders.export import CARD
from onnxheadprune.deploying.folders.matching import Match, SharedSite
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Cell, Fact, Facts, Part, Table, Word
from onnxheadprune.display.markdown import markdown_lines
from onnxheadprune.display.spelling import change, count, first_few, in_markdown, many, size, spelled
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.storage.claims import Backup
from onnxheadprune.model.typed_json import HIDDEN, Key, written
from onnxheadprune.settings.units import HEAD, KINDS, UnitKind, key_of
from onnxheadprune.validation.headline import Headline, headline_of
from onnxheadprune.validation.summary import result_of
from onnxheadprune.workflow.details import choice_details
from onnxheadprune.workflow.result import PruneResult

if TYPE_CHECKING:
    from onnxheadprune.data.respelled import Spelling
    from onnxheadprune.validation.result import Validation

_SHOWN = 8
"""Files that are listed by name."""
_LARGEST = 2**20
"""The largest size of a model card in bytes; a larger README is copied unchanged."""
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True, eq=False)
class FileResult:
    """A model of the folder that was cut."""

    name: str  # its path in the folder
    leads: bool  # whether heads were chosen on it
    result: PruneResult

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {"file": self.name, "leads": self.leads, **self.result.to_dict()}


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
        backup: where the folder is kept that the output replaces, None if it replaces none.
        would_write: where a dry run would write; None without an output, and if this was none.
    """

    folder: str
    output: str | None
    runtime: str | None
    match: Annotated[Match, HIDDEN]
    heads: Annotated[Mapping[int, tuple[int, ...]], HIDDEN]
    files: tuple[FileResult, ...]
    copied: tuple[str, ...]
    changes: Annotated[tuple[ConfigChange, ...], Key("config_changes")]
    card: bool
    warnings: tuple[str, ...]
    rewritten: tuple[str, ...] = ()
    backup: Backup | None = None
    would_write: str | None = None

    @property
    def results(self) -> tuple[PruneResult, ...]:
        """The results of all models that lost some."""
        return tuple(item.result for item in self.files)

    @property
    def compared_with(self) -> str:
        """The path of the original, also where it was replaced."""
        return self.folder if self.backup is None else str(self.backup.original)

    @property
    @written()
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
                parts.append(f"{count(gone)} of {many(before, kind.unit)}")
        cuts = (item.result.plan.vocabulary for item in self.files)
        tokens = next((cut for cut in cuts if cut is not None), None)
        if tokens is not None:
            gone = tokens.tokens.rows - tokens.left
            parts.append(f"{count(gone)} of {many(tokens.tokens.rows, 'token')}")
        return tuple(parts)

    @property
    @written()
    def spelling(self) -> Spelling | None:
        """The part of the data that the kept tokens spell as before, by the first model that reads them."""
        return next((item.result.spelling for item in self.files if item.result.spelling is not None), None)

    def facts(self) -> Facts:
        """The gains and costs of the cut; its sites, files and choices as details."""
        told = result_of(self.to_dict(), self.headline).facts()
        return replace(told, details=tuple(_details(self)))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {**super().to_dict(), **_gone_to_dict(self.heads), **sites_to_dict(self.match)}


def _gone_to_dict(gone: Mapping[int, tuple[int, ...]]) -> dict[str, Any]:
    """Removed units as JSON-ready data: heads by the index of their site, other units by its key, as ranges."""
    found: dict[str, Any] = {
        kind.units: {key_of(i): spelled(units) for i, units in sorted(gone.items()) if kind.owns(i)}
        for kind in KINDS[1:]
    }
    heads = {str(i): list(units) for i, units in sorted(gone.items()) if HEAD.owns(i)}
    return {HEAD.units: heads, **found}


def sites_to_dict(match: Match) -> dict[str, Any]:
    """The sites of an export as JSON-ready data, a list for each kind that was matched."""
    return {kind.field: [_shared_to_dict(item) for item in match.of_kind(kind)] for kind in match.kinds}


def _shared_to_dict(item: SharedSite) -> dict[str, Any]:
    places = {name: list(indices) for name, indices in item.places.items()}
    return item.site.to_dict() | {"network": item.network, "files": places}


def _details(result: FolderResult) -> Iterator[Part]:
    """The sites, files, choices, interface and configuration."""
    for kind in result.match.kinds:
        lost = [item for item in result.match.of_kind(kind) if result.heads.get(item.index)]
        if lost:
            yield _sites(kind, lost, result)
    columns = ("file", "weights", "", "validation")
    yield Table(columns, tuple(map(_file_row, result.files)), columns[1:3], columns[3:])
    for item in result.files:
        if item.leads:
            yield from choice_details(item.result.chosen, item.result.plan)
    for item in result.files:
        if lines := _grouped(item):
            yield Fact("interface", f"inputs and outputs of {item.name} change:", "doubtful")
            yield from (Fact("", line, "doubtful") for line in lines)
    for index, field in enumerate(result.changes):
        yield Fact("config" if not index else "", str(field), "doubtful")
    if result.output is not None:
        yield Fact("copied", first_few(result.copied, _SHOWN) or "nothing else")
        if result.card:
            yield Fact("model card", CARD)


def _sites(kind: UnitKind, lost: Sequence[SharedSite], result: FolderResult) -> Table:
    title, number = (kind.title, ("removed",)) if kind.has_many_units else (kind.block, ())
    rows = []
    for item in lost:
        site, removed = item.site, result.heads[item.index]
        left = f"{count(site.num_units - len(removed))} of {count(site.original_num_units)}"
        rows.append((site.tag, site.name, site.listed(removed), left, str(len(item.places))))
    columns = ("#", title, "removed", "left", "files")
    return Table(columns, tuple(rows), (*number, *columns[3:]), ("removed",))


def _file_row(item: FileResult) -> tuple[Cell, ...]:
    before, after = item.result.before.bytes, item.result.after.bytes
    return item.name, size(after), change(before, after), _verdict(item.result.validation)


def _verdict(validation: Validation | None) -> Cell:
    if validation is None:
        return "-"
    error = validation.error
    rests_on = validation.reason.split(";")[0] if error is None else f"error {error:.1e}"
    return Word(f"{validation.verdict}: {rests_on}", "good" if validation.exact == "yes" else "doubtful")


def _grouped(item: FileResult) -> list[str]:
    """Changed inputs and outputs of a file, those of a kind in one line."""
    kinds: dict[tuple[str, int | None, object, object], list[str]] = {}
    for found in item.result.plan.interface:
        kinds.setdefault((found.role, found.axis, found.before, found.after), []).append(found.name)
    return [
        f"{many(len(names), role)} ({names[0]}{', ...' if len(names) > 1 else ''}): {before} -> {after} on axis {axis}"
        for (role, axis, before, after), names in kinds.items()
    ]


def read_card(root: Path, others: Sequence[str]) -> str | None:
    """Return the model card of a folder: "" without one, None for a file that is not text."""
    if CARD not in others:
        return ""
    path = root / CARD
    if path.stat().st_size > _LARGEST:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def model_card(
    result: FolderResult,
    before: str,
    config: Mapping[str, Any],
    command: str | None,
    step: str | None = None,
) -> str:
    """Return the model card of a pruned folder, in Markdown for the Hugging Face Hub.

    Args:
        before: the model card of the input folder, whose front matter and text are kept.
        command: the command line or the line of Python that repeats the call, None for none.
        step: the pass of a pipeline that wrote the folder. The card then names the input folder, since the output
            folder is temporary, and says that it does not cover later passes.
    """
    kept = _FRONT_MATTER.match(before)
    front = kept[0].rstrip() if kept is not None else "\n".join(_front_matter(config))
    text = before[kept.end() :] if kept is not None else before
    return "\n".join(
        [front, "", *_section(result, command, step), *(["", text.strip()] if text.strip() else []), ""]
    )


def _front_matter(config: Mapping[str, Any]) -> Iterator[str]:
    yield "---"
    name = config.get("_name_or_path")
    if isinstance(name, str) and _HUB_NAME.fullmatch(name):
        yield f"base_model: {name}"
    yield from ("tags:", "- onnx", "- pruned", "---")


def _section(result: FolderResult, command: str | None, step: str | None) -> Iterator[str]:
    from onnxheadprune import __version__

    name = Path(result.folder if step is not None else result.output or result.folder).name
    yield f"# {in_markdown(name)}"
    yield ""
    if step is not None:
        yield (
            f"This section describes the models as the pass {step} wrote them. What later passes changed, as a"
            " quantization does, is not in its answers and sizes."
        )
        yield ""
    yield f"Pruned with onnxheadprune {__version__}: {', '.join(result.removed) or 'nothing is removed'}."
    yield ""
    told = result.facts()
    tables = (part for part in told.details if isinstance(part, Table))
    # Fields of the configuration are all listed below.
    parts = (part for part in told.parts if not (isinstance(part, Fact) and part.label == "config"))
    yield from markdown_lines(replace(told, parts=(*parts, *tables)))
    if result.changes:
        yield ""
        yield from (f"* {in_markdown(str(change))}" for change in result.changes)
    if command is not None:
        yield from ("", "To repeat it:", "", f"    {command}")
