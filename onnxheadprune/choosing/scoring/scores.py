"""Scores of heads, neurons and experts, and their file format for all methods: JSON or a table."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Annotated, Any, Literal

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.specs import MAX_UNIT
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Fact, Facts, Part, Strip, Table, UnitMap
from onnxheadprune.display.spelling import file_name, many, reasons
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import NotJsonError, parse_json, read_text
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.storage.writing import JSON_KEY, write_json, write_text
from onnxheadprune.model.typed_json import (
    OPTIONAL,
    Count,
    FieldError,
    JsonObject,
    Size,
    read_document,
    shown,
    written,
)
from onnxheadprune.settings.registry import SHARE
from onnxheadprune.settings.units import HEAD, KINDS, UnitKind, called, key_of, kind_at, kind_of_key

FORMAT: Literal[1] = 1
"""Of the file."""
MAX_SCORES = 2**26
"""Bytes of a file of scores; those of half a million units take half of it."""
IMPORTED = "imported"
DIGITS = 4
"""Of the number of a site."""
MOST_UNITS = 2**24
"""Of all sites of a table; a few rows could name more than there is memory for."""
COLUMNS = ("site", "unit", "score", "method", "means")
"""Of a table that is written. "means" is `HeadScores.unit`; a table of others needs none of the last two."""
UNITS = ("unit", "head")
"""Columns that number the units of a site."""


@one_line("index name scores")
@dataclass(frozen=True)
class SiteScores:
    """Scores of one site's units: heads, or neurons.

    Attributes:
        index: of the site.
        name: of the site.
        scores: one per unit of the original model, None for a removed unit; larger is more important.
    """

    index: Size
    name: str
    scores: tuple[float | None, ...]

    @property
    @written()
    def key(self) -> str:
        """The site's key in a spec: "3", or "ffn.3" for a feed-forward block."""
        return key_of(self.index)

    @property
    def kind(self) -> UnitKind:
        """Of its units."""
        return kind_at(self.index)


@one_line("model method unit sites data samples")
@dataclass(frozen=True)
class HeadScores(Displayed):
    """The scores of all heads and, where requested, of all neurons.

    Attributes:
        method: the scoring method.
        unit: the unit of scores; scores of one unit add up and are comparable across sites.
        model: the model's name.
        sites: scores per site, attention sites first.
        data: fingerprint of the calibration data, None where none was used.
        samples: the number of samples.
        source: the source of the data.
        constant: for gradient methods: values that were held constant, with the reason, by name.
        skipped: labels of sites that could not be scored on the data, with the reason.
    """

    method: str
    unit: str
    model: str
    sites: tuple[SiteScores, ...]
    data: str | None = None
    samples: int = 0
    source: str | None = None
    constant: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    _by_index: Mapping[int, SiteScores] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_index", {site.index: site for site in self.sites})

    @classmethod
    def from_dict(cls, data: Any, where: str = "the scores") -> HeadScores:
        """Scores out of the file format, or out of a plain mapping of sites to lists of numbers.

        Raises:
            UsageError: if they are neither.
        """
        if isinstance(data, Mapping) and "sites" not in data:
            data = _imported(data)
        try:
            read: ScoresFile = read_document(ScoresFile, _completed(data, where))
        except FieldError as error:
            raise UsageError(f"{where} are not in the format of `score`: {error}") from error
        origin = read.data or Origin()
        return cls(
            read.method,
            read.unit,
            read.model,
            read.sites,
            origin.fingerprint,
            origin.samples or 0,
            origin.source,
            read.constant or {},
        )

    def of(self, site: Site) -> tuple[float, ...]:
        """Scores of a site's present units, in their order.

        Raises:
            UsageError: if the scores are not of this model, or of no units of this kind.
        """
        found = self._by_index.get(site.index)
        kind = kind_at(site.index)
        if self.sites and not any(kind.owns(other.index) for other in self.sites):
            raise UsageError(
                f"the scores have none for the {site.KIND.units} of {site.label}; score them too, with"
                f" `units={','.join(each.units for each in KINDS)}`"
            )
        if found is None or len(found.scores) != site.original_num_units:
            has = "no scores" if found is None else f"{len(found.scores)} scores"
            raise UsageError(
                f"the scores have {has} for {site.label}, which has"
                f" {site.original_num_units} {site.KIND.unit}s; they are of another model"
            )
        values = [found.scores[unit] for unit in site.original_units]
        if any(value is None for value in values):
            raise UsageError(f"the scores lack a {site.KIND.unit} of {site.label}")
        return tuple(float(value) for value in values if value is not None)

    @property
    def heads(self) -> tuple[SiteScores, ...]:
        """Scores of sites with few units, to list one by one: heads, experts."""
        return tuple(site for site in self.sites if not site.kind.has_many_units)

    @property
    def blocks(self) -> tuple[SiteScores, ...]:
        """Scores of sites with hundreds of units: feed-forward blocks."""
        return tuple(site for site in self.sites if site.kind.has_many_units)

    @property
    def kinds(self) -> str:
        """The scored kinds: "heads", "neurons" or "heads and neurons"."""
        return _units(self.sites)

    @property
    def are_shares(self) -> bool:
        """True if scores are shares of a site, which order its heads but are not comparable across sites."""
        return self.unit.startswith(SHARE)

    def facts(self) -> Facts:
        """The scores: least and most important heads, the spread of each block's neurons, heads by rank."""
        parts: list[Part] = []
        if self.heads:
            parts.append(_extremes(self.heads))
        if self.blocks:
            parts.append(_spreads(self.blocks))
        parts.append(Fact("unit", self.unit))
        if self.data is not None:
            parts.append(Fact("data", f"{many(self.samples, 'sample')} of {self.source} ({self.data[:12]})"))
        parts += [Fact("constant", line, "doubtful") for line in reasons(self.constant.items())]
        if self.heads:
            title = f"{file_name(self.model)}: {self.method}"
            strips = tuple(map(_strip, self.heads))
            parts.append(UnitMap(_units(self.heads), strips, "removed before", self.unit, title))
        return Facts(f"{self.model}: {self.kinds} scored by {self.method}", parts=tuple(parts))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: the file format."""
        origin = Origin(source=self.source, fingerprint=self.data, samples=self.samples)
        return ScoresFile(
            method=self.method,
            unit=self.unit,
            model=self.model,
            data=origin,
            constant=self.constant,
            sites=self.sites,
        ).to_dict()


SHOWN = 4
"""Heads to name at each end of a site."""


def _units(sites: Sequence[SiteScores]) -> str:
    return " and ".join(dict.fromkeys(site.kind.units for site in sites))


def _strip(site: SiteScores) -> Strip:
    gone = tuple(unit for unit, value in enumerate(site.scores) if value is None)
    return Strip(called(site.index), site.name, site.scores, gone)


def _extremes(sites: Sequence[SiteScores]) -> Table:
    rows = []
    for site in sites:
        order = sorted((value, unit) for unit, value in enumerate(site.scores) if value is not None)
        ends = (
            ", ".join(f"{unit} ({value:.2g})" for value, unit in end[:SHOWN]) for end in (order, order[::-1])
        )
        rows.append((called(site.index), site.name, str(len(order)), *ends))
    units = _units(sites)
    return Table(("#", "site", units, "least", "most"), tuple(rows), (units,), ("least", "most"))


def _spreads(blocks: Sequence[SiteScores]) -> Table:
    rows = []
    for block in blocks:
        order = sorted(value for value in block.scores if value is not None)
        shown = (order[0], order[len(order) // 4], order[len(order) // 2], order[-1])
        rows.append((block.key, block.name, str(len(order)), *(f"{value:.2g}" for value in shown)))
    columns = ("#", "block", _units(blocks), "least", "a quarter below", "half below", "most")
    return Table(columns, tuple(rows), columns[2:])


@dataclass(frozen=True)
class Origin:
    """The data that scores were measured on."""

    source: Annotated[str | None, OPTIONAL] = None
    fingerprint: Annotated[str | None, OPTIONAL] = None
    samples: Annotated[Count | None, OPTIONAL] = 0


@dataclass(frozen=True, kw_only=True)
class ScoresFile(JsonObject):
    """The document of scores, which people write, too."""

    format: Literal[1] = FORMAT
    method: str
    unit: Annotated[str, OPTIONAL] = IMPORTED
    model: Annotated[str, OPTIONAL] = ""
    data: Annotated[Origin | None, OPTIONAL] = None
    constant: Annotated[Mapping[str, str] | None, OPTIONAL] = None
    sites: tuple[SiteScores, ...]


def _completed(data: Any, where: str) -> Any:
    """The document with the index of each site; a person may give the key alone."""
    if not isinstance(data, Mapping) or not isinstance(data.get("sites"), list):
        return data
    sites = []
    for site in data["sites"]:
        if isinstance(site, Mapping) and "key" in site:
            index = _index_of(str(site["key"]), where)
            if site.get("index", index) != index:
                raise UsageError(f"{where} have a site with the key {shown(site['key'])} and another index")
            site = {**site, "index": index}
        sites.append(site)
    return {name: value for name, value in data.items() if name != JSON_KEY} | {"sites": sites}


def _imported(
    scores: Mapping[Any, object], method: str = IMPORTED, means: str = IMPORTED
) -> Mapping[str, object]:
    """The document of scores by the keys of sites."""
    sites = [
        {"key": key, "name": "", "scores": list(numbers) if isinstance(numbers, tuple) else numbers}
        for key, numbers in scores.items()
    ]
    return {"format": FORMAT, "method": method, "unit": means, "sites": sites}


def _index_of(key: str, where: str) -> int:
    """The index of the site that a key names: "3", or "ffn.3" for a feed-forward block."""
    kind = kind_of_key(key)
    number = key.removeprefix("" if kind is None else kind.key)
    if not (number.isascii() and number.isdecimal() and len(number) <= DIGITS):
        other = KINDS[1]
        raise UsageError(
            f'{where} must name sites by number, as in {{"0": [0.5, 1.25]}}, or as in "{other.key}0" for the'
            f" {other.units} of a {other.block}, not {key[:60]!r}; they must be a mapping from these to scores"
        )
    return int(number) + (0 if kind is None else kind.first)


def scores_in(given: Any) -> HeadScores:
    """Scores, or those of a file."""
    return given if isinstance(given, HeadScores) else read_scores(given)


def read_scores(path: str | os.PathLike[str]) -> HeadScores:
    """Scores from a JSON file, or from a CSV file with the columns site, head and score.

    Raises:
        UsageError: if the file cannot be read as either.
    """
    text, where = read_text(path, "the scores", MAX_SCORES), f"the scores {path}"
    try:
        if _is_table(path):
            return HeadScores.from_dict(_of_table(csv.DictReader(text.splitlines()), where), where)
        return HeadScores.from_dict(parse_json(text, once=True), where)
    except csv.Error as error:
        raise UsageError(f"{where} are no CSV file: {error}") from error
    except NotJsonError as error:
        raise UsageError(f"{where} are {error}") from error


def _of_table(rows: csv.DictReader[str], where: str) -> Mapping[str, object]:
    """The document of the rows of a table."""
    column = next((name for name in UNITS if name in (rows.fieldnames or ())), None)
    if column is None or not {"site", "score"} <= set(rows.fieldnames or ()):
        raise UsageError(f"{where} need the columns site, head and score; unit may stand for head")
    found: dict[str, dict[int, float]] = {}
    told: dict[tuple[str, str], None] = {}
    for number, row in enumerate(rows, 2):
        try:
            site, unit = row["site"].strip(), int(row[column])
            if not 0 <= unit <= MAX_UNIT:
                raise ValueError(f"there is no {(kind_of_key(site) or HEAD).unit} {unit}")
            found.setdefault(site, {})[unit] = float(row["score"])
        except (TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"{where} are damaged in line {number}: {error!s:.200}") from error
        told[(row.get("method") or IMPORTED, row.get("means") or IMPORTED)] = None
    if sum(max(units) + 1 for units in found.values()) > MOST_UNITS:
        raise UsageError(f"{where} number more than {MOST_UNITS:,} units, of which most have no score")
    if len(told) > 1:
        raise UsageError(
            f"{where} mix scores of several methods, which cannot be compared; make a file of each"
        )
    scores = {site: [units.get(unit) for unit in range(max(units) + 1)] for site, units in found.items()}
    return _imported(scores, *next(iter(told), (IMPORTED, IMPORTED)))


def store_scores(scores: HeadScores, path: str | os.PathLike[str]) -> None:
    """Write scores where the call has claimed the file: before its work, for what is in the way later is no misuse."""
    if _is_table(path):
        write_text(path, _as_csv(scores))
    else:
        write_json(path, scores.to_dict())


def _is_table(path: str | os.PathLike[str]) -> bool:
    return PurePath(path).suffix.lower() == ".csv"


def _as_csv(scores: HeadScores) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for site in scores.sites:
        for unit, value in enumerate(site.scores):
            if value is not None:
                table.writerow((site.key, unit, repr(value), scores.method, scores.unit))
    return text.getvalue()
