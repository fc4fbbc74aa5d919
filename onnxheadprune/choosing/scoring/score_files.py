"""Scores in files: one format for all methods, as JSON or as a table, and imports from others."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from onnxheadprune.attention.heads import most_units
from onnxheadprune.attention.sites import kinds
from onnxheadprune.choosing.scoring.scores import FORMAT, MAX_SCORES, HeadScores, SiteScores
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import NotJsonError, parse_json, read_text
from onnxheadprune.model.storage.folder import write_text

IMPORTED = "imported"
DIGITS = 4
"""Of the number of a site."""
MOST_UNITS = 2**24
"""Of all sites of a table; a few rows could name more than there is memory for."""
COLUMNS = ("site", "unit", "score", "method", "means")
"""Of a table that is written. "means" is `HeadScores.unit`; a table of others needs none of the last two."""
UNITS = ("unit", "head")
"""Columns that number the units of a site."""


def scores_from_dict(data: Any, where: str = "the scores") -> HeadScores:
    """Scores out of the file format, or out of a plain mapping of sites to lists of numbers.

    Raises:
        UsageError: if they are neither.
    """
    if isinstance(data, Mapping) and "sites" not in data:
        return _from_mapping(data, where)
    try:
        if data["format"] != FORMAT:
            raise UsageError(f"{where} have the format {data['format']}, this version reads {FORMAT}")
        origin = data.get("data") or {}
        sites = tuple(
            SiteScores(_index(item, where), str(item["name"]), _numbers(item["scores"], where))
            for item in data["sites"]
        )
        return HeadScores(
            str(data["method"]),
            str(data.get("unit", "imported")),
            str(data.get("model", "")),
            sites,
            origin.get("fingerprint"),
            int(origin.get("samples") or 0),
            origin.get("source"),
            {str(name): str(reason) for name, reason in (data.get("constant") or {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"{where} are not in the format of `score`: {error!r:.200}") from error


def _index(item: Mapping[str, Any], where: str) -> int:
    """The index of a site; files of earlier versions, which knew heads alone, have no key."""
    key = item.get("key")
    return int(item["index"]) if key is None else _index_of(str(key), where)


def _index_of(key: str, where: str) -> int:
    """The index of the site that a key names: "3", or "ffn.3" for a feed-forward block.

    Raises:
        UsageError: if it is no key.
    """
    kind = kinds.kind_of_key(key)
    number = key.removeprefix("" if kind is None else kind.KEY)
    if not (number.isascii() and number.isdecimal() and len(number) <= DIGITS):
        other = kinds.KINDS[0]
        raise UsageError(
            f'{where} must name sites by number, as in {{"0": [0.5, 1.25]}}, or as in "{other.KEY}0" for the'
            f" {other.UNITS} of a {other.BLOCK}, not {key[:60]!r}; they must be a mapping from these to scores"
        )
    return int(number) + (0 if kind is None else kind.FROM)


def _from_mapping(data: Mapping[str, Any], where: str) -> HeadScores:
    sites = []
    for key, numbers in data.items():
        index = _index_of(str(key), where)
        if not isinstance(numbers, Sequence) or isinstance(numbers, str):
            raise UsageError(f'{where} must be a mapping like {{"0": [0.5, 1.25]}} from sites to scores')
        sites.append(SiteScores(index, "", _numbers(numbers, where)))
    return HeadScores(IMPORTED, IMPORTED, "", tuple(sites))


def _numbers(values: Iterable[Any], where: str) -> tuple[float | None, ...]:
    try:
        numbers = tuple(None if value is None else float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{where} hold something that is no number: {error!s:.200}") from error
    if any(value is not None and not math.isfinite(value) for value in numbers):
        raise UsageError(f"{where} hold a number that is not finite")
    return numbers


def read_scores(path: str | os.PathLike[str]) -> HeadScores:
    """Scores from a JSON file, or from a CSV file with the columns site, head and score.

    Raises:
        UsageError: if the file cannot be read as either.
    """
    text = read_text(path, "the scores", MAX_SCORES)
    if _is_table(path):
        return _from_csv(text, f"the scores {path}")
    try:
        return scores_from_dict(parse_json(text, once=True), f"the scores {path}")
    except NotJsonError as error:
        raise UsageError(f"the scores {path} are {error}") from error


def write_scores(scores: HeadScores, path: str | os.PathLike[str]) -> None:
    """Writes a table where the file is called `.csv`, else JSON; what was there before stays until all is written.

    A table says nothing of the data.

    Raises:
        UsageError: if the file cannot be written.
    """
    text = _as_csv(scores) if _is_table(path) else json.dumps(scores.to_dict(), indent=1) + "\n"
    write_text(path, text)


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


def _from_csv(text: str, where: str) -> HeadScores:
    try:
        return _from_rows(csv.DictReader(text.splitlines()), where)
    except csv.Error as error:
        raise UsageError(f"{where} are no CSV file: {error}") from error


def _from_rows(rows: csv.DictReader[str], where: str) -> HeadScores:
    column = next((name for name in UNITS if name in (rows.fieldnames or ())), None)
    if column is None or not {"site", "score"} <= set(rows.fieldnames or ()):
        raise UsageError(f"{where} need the columns site, head and score; unit may stand for head")
    found: dict[str, dict[int, float]] = {}
    told: dict[tuple[str, str], None] = {}
    for number, row in enumerate(rows, 2):
        try:
            site, unit = row["site"].strip(), int(row[column])
            if not 0 <= unit <= most_units(site):
                raise ValueError(
                    f"there is no {(kinds.kind_of_key(site) or kinds.every_kind()[0]).UNIT} {unit}"
                )
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
    read = _from_mapping(
        {site: [units.get(unit) for unit in range(max(units) + 1)] for site, units in found.items()}, where
    )
    method, means = next(iter(told), (IMPORTED, IMPORTED))
    return replace(read, method=method, unit=means)
