"""Scores of heads as data: one file format for all methods, and imports from others."""

from __future__ import annotations

import csv
import json
import math
import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from onnxheadprune.attention.heads import MAX_HEAD, parse_heads
from onnxheadprune.attention.sites.site import AttentionSite, Site
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import NotJsonError, parse_json, read_text
from onnxheadprune.model.notebook import Html, card, line, squares, table
from onnxheadprune.model.spelling import file_name, many
from onnxheadprune.model.storage.folder import write_text

FORMAT = 1


@dataclass(frozen=True)
class SiteScores:
    """Scores of one site's heads.

    Attributes:
        index: of the site.
        name: of the site.
        scores: one per head of the original model, None for a head that is gone; larger is worth more.
    """

    index: int
    name: str
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class HeadScores:
    """What every head is worth.

    Attributes:
        method: how the scores came about.
        unit: what a score means; scores of one unit add up and compare across sites.
        model: the model's name.
        data: fingerprint of the calibration data, None where none was used.
        samples: how many samples that were.
        sites: scores per site.
    """

    method: str
    unit: str
    model: str
    sites: tuple[SiteScores, ...]
    data: str | None = None
    samples: int = 0
    source: str | None = None
    _by_index: Mapping[int, SiteScores] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_index", {site.index: site for site in self.sites})

    def of(self, site: AttentionSite) -> tuple[float, ...]:
        """Scores of a site's present heads, in their order.

        Raises:
            UsageError: if the scores are not of this model.
        """
        found = self._by_index.get(site.index)
        if found is None or len(found.scores) != site.original_num_heads:
            has = "no scores" if found is None else f"{len(found.scores)} scores"
            raise UsageError(
                f"the scores have {has} for site {site.index} ({site.name}), which has"
                f" {site.original_num_heads} heads; they are of another model"
            )
        values = [found.scores[head] for head in site.original_heads]
        if any(value is None for value in values):
            raise UsageError(f"the scores lack a head of site {site.index} ({site.name})")
        return tuple(float(value) for value in values if value is not None)

    @property
    def are_shares(self) -> bool:
        """Whether scores are shares of a site, so that they order its heads but do not compare across sites."""
        return self.unit.startswith("share of the site")

    def by_site(self) -> dict[str, tuple[float | None, ...]]:
        """Scores per site, under "index name"."""
        return {f"{site.index} {site.name}".strip(): site.scores for site in self.sites}

    def _repr_html_(self) -> str:
        known = sorted(value for site in self.sites for value in site.scores if value is not None)
        last = max(len(known) - 1, 1)

        def drawn(site: SiteScores) -> Html:
            # Ranks, so that a few huge scores do not hide the rest.
            ranks = [None if value is None else bisect_left(known, value) / last for value in site.scores]
            told = [
                "gone" if value is None else f"head {head}: {value:.3g}"
                for head, value in enumerate(site.scores)
            ]
            return squares(ranks, words=told)

        return card(
            f"{file_name(self.model)}: heads scored by {self.method}",
            table(
                ("#", "site", "the bluer the more it is worth, by rank"),
                ((str(site.index), site.name, drawn(site)) for site in self.sites),
            ),
            line("unit", self.unit),
            line("data", f"{many(self.samples, 'sample')} of {self.source}")
            if self.source is not None
            else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: the file format."""
        return {
            "format": FORMAT,
            "method": self.method,
            "unit": self.unit,
            "model": self.model,
            "data": {"source": self.source, "fingerprint": self.data, "samples": self.samples},
            "sites": [
                {"index": site.index, "name": site.name, "scores": list(site.scores)} for site in self.sites
            ],
        }


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
            SiteScores(int(item["index"]), str(item["name"]), _numbers(item["scores"], where))
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
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UsageError(f"{where} are not in the format of `score`: {error!r:.200}") from error


def _from_mapping(data: Mapping[str, Any], where: str) -> HeadScores:
    sites = []
    for key, numbers in data.items():
        if (
            not str(key).isdecimal()
            or len(str(key)) > len(str(MAX_HEAD))
            or not isinstance(numbers, Sequence)
            or isinstance(numbers, str)
        ):
            raise UsageError(
                f'{where} must be a mapping like {{"0": [0.5, 1.25]}} from site indices to scores'
            )
        sites.append(SiteScores(int(key), "", _numbers(numbers, where)))
    return HeadScores("imported", "imported", "", tuple(sites))


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
    text = read_text(path, "the scores")
    if PurePath(path).suffix.lower() == ".csv":
        return _from_csv(text, f"the scores {path}")
    try:
        return scores_from_dict(parse_json(text), f"the scores {path}")
    except NotJsonError as error:
        raise UsageError(f"the scores {path} are {error}") from error


def write_scores(scores: HeadScores, path: str | os.PathLike[str]) -> None:
    """Writes the file format; what was there before stays until all of it is written.

    Raises:
        UsageError: if the file cannot be written.
    """
    write_text(path, json.dumps(scores.to_dict(), indent=1) + "\n")


def _from_csv(text: str, where: str) -> HeadScores:
    try:
        return _from_rows(csv.DictReader(text.splitlines()), where)
    except csv.Error as error:
        raise UsageError(f"{where} are no CSV file: {error}") from error


def _from_rows(rows: csv.DictReader[str], where: str) -> HeadScores:
    if not rows.fieldnames or not {"site", "head", "score"} <= set(rows.fieldnames):
        raise UsageError(f"{where} need the columns site, head and score")
    found: dict[int, dict[int, float]] = {}
    for number, row in enumerate(rows, 2):
        try:
            head = int(row["head"])
            if not 0 <= head <= MAX_HEAD:
                raise ValueError(f"there is no head {head}")
            found.setdefault(int(row["site"]), {})[head] = float(row["score"])
        except (TypeError, ValueError) as error:
            raise UsageError(f"{where} are damaged in line {number}: {error!s:.200}") from error
    return _from_mapping(
        {str(site): [heads.get(head) for head in range(max(heads) + 1)] for site, heads in found.items()},
        where,
    )


def is_protected(protected: str | None, sites: Sequence[Site]) -> dict[int, frozenset[int]]:
    """Heads that must stay, per site index (indices of the original model), from a head spec.

    A bare site ("3" or a name) protects all of its heads.

    Raises:
        UsageError: if the spec does not fit the model.
    """
    found: dict[int, frozenset[int]] = {}
    for token in (protected or "").split():
        spec = token if ":" in token else None
        key = token if spec is None else token.rpartition(":")[0]
        matching = [site for site in sites if key in ("*", site.key, site.name)]
        if not matching:
            raise UsageError(f"there is no site {key!r} to protect")
        for site in matching:
            heads = range(site.original_num_units) if spec is None else parse_heads(spec)[key]
            if any(head >= site.original_num_units for head in heads):
                raise UsageError(
                    f"{site.label} has {site.original_num_units} {site.UNIT}s, so {token!r} protects none"
                )
            found[site.index] = found.get(site.index, frozenset()) | frozenset(heads)
    return found
