"""Figures of the documentation: where each stands, which run makes it again, and whether both still agree.

`figures.toml` says where figures stand and never what they are; they are read from the documents.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
REGISTRY = Path(__file__).with_name("figures.toml")
TOLERANCE = 0.10
"""Part of a figure by which it may be off, beside what its last digit was rounded by."""
NUMBER = re.compile(r"-?(?:\d[\d,]*)?\.?\d+")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
MEASURED = re.compile(r"[-~]?\.?\d[\d.,]*( ?(%|x|s|ms|[kMG]B|/|±|\[).*)?(, .*)?$")
"""A cell that begins with a number which somebody has measured, and is about little else."""
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CELL = re.compile(r"\{(\d)(:n)?\}")

Key = tuple[str | Mapping[str, Any], ...]
"""The way to a number in a result: a name leads into a mapping, a mapping to the entry of a list that has its
values."""
Verdict = Literal["agrees", "off", "seconds", "not measured"]


class RegistryError(Exception):
    """The registry names something that is not in a document or in a result."""


@dataclass(frozen=True)
class Run:
    """One call of a script.

    Attributes:
        name: of the run.
        command: script and arguments; "{minilm}", "{tokenizer}" and "{out}" stand for paths. JSON is printed, or
            written to "{out}".
        quick: whether it belongs to `--quick`.
    """

    name: str
    command: tuple[str, ...]
    quick: bool

    def needs(self, name: str) -> bool:
        """Whether the command has a path of that name in it."""
        return any(f"{{{name}}}" in word for word in self.command)


@dataclass(frozen=True)
class Figure:
    """A number in a document, and where the same number is in a result.

    Attributes:
        place: document, section, and what tells it from the others there.
        text: the number as the document writes it, with what it is read as.
        run: the name of the run that makes it again.
        key: where it is in that run's result.
        scale: what a result is multiplied by to be in the document's unit.
        seconds: whether it depends on the machine, so that it is shown and not judged.
        whole: what the figure falls short of, as 1 is for a cosine: then the distance from that is compared, which
            says more than the figure.
        slack: what it may be off by beside the tolerance, as a picture or two of those that an accuracy counts.
    """

    place: str
    text: str
    run: str
    key: Key
    scale: float = 1.0
    seconds: bool = False
    whole: float = 0.0
    slack: float = 0.0

    @property
    def stated(self) -> float:
        """The number in the document."""
        return float(self.text.replace(",", ""))

    @property
    def allowed(self) -> float:
        """What a result may be off by: a tenth, and what the last digit was rounded by."""
        rounding = 0.5 * 10.0 ** -len(self.text.partition(".")[2])
        return TOLERANCE * abs(self.stated - self.whole) + rounding + self.slack


@dataclass(frozen=True)
class Finding:
    """A figure beside what was measured; None where the result does not have it."""

    figure: Figure
    measured: float | None

    @property
    def verdict(self) -> Verdict:
        """Whether both agree to a tenth."""
        if self.measured is None:
            return "not measured"
        if self.figure.seconds:
            return "seconds"
        return "agrees" if abs(self.measured - self.figure.stated) <= self.figure.allowed else "off"

    def line(self) -> str:
        """One line for people."""
        shown = "-" if self.measured is None else f"{self.measured:.6g}"
        return f"{self.verdict:12} {self.figure.text:>10} {shown:>10}  {self.figure.place}"


@dataclass(frozen=True)
class Registry:
    """What `figures.toml` says.

    Attributes:
        runs: by name.
        entries: tables and sentences with figures that a run makes again.
        others: tables that no run of the registry makes again, with the reason.
    """

    runs: Mapping[str, Run]
    entries: Sequence[Mapping[str, Any]]
    others: Sequence[Mapping[str, str]]


def read_registry(path: Path = REGISTRY) -> Registry:
    """The registry."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    runs = {
        name: Run(name, tuple(item["command"]), item.get("quick", False))
        for name, item in data["runs"].items()
    }
    return Registry(runs, data["figures"], data.get("others", []))


def figures_of(registry: Registry, root: Path = ROOT) -> list[Figure]:
    """All figures, as they stand in the documents now.

    Args:
        registry: where they stand.
        root: of the documents.

    Raises:
        RegistryError: if a document, a section, a row, a column or a sentence is not there.
    """
    found: list[Figure] = []
    for entry in registry.entries:
        if entry["run"] not in registry.runs:
            raise RegistryError(f"there is no run {entry['run']!r}")
        if "list" in entry:
            found += _in_json(entry, json.loads((root / entry["document"]).read_text(encoding="utf-8")))
            continue
        text = section_of(entry["document"], entry.get("section"), root)
        found += _in_sentence(entry, text) if "sentence" in entry else _in_table(entry, text)
    return found


def section_of(document: str, title: str | None, root: Path = ROOT) -> str:
    """The text below a heading, up to the next one; all of a document without one.

    Raises:
        RegistryError: if there is no such heading.
    """
    text = (root / document).read_text(encoding="utf-8")
    if title is None:
        return text
    for heading, below in sections_of(text):
        if heading == title:
            return below
    raise RegistryError(f"{document} has no section {title!r}")


def tables_of(text: str) -> Iterator[list[list[str]]]:
    """Tables of Markdown, row by row, the names of the columns first."""
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip().replace("**", "") for cell in line.strip().strip("|").split("|")]
            if not all(set(cell) <= set("-: ") for cell in cells) or not any(cells):
                rows.append(cells)
        elif rows:
            yield rows
            rows = []


def sections_of(text: str) -> Iterator[tuple[str, str]]:
    """Headings of a document with the text below each; what comes before the first has none."""
    # A comment of a shell begins as a heading does.
    text = CODE.sub("", text)
    headings = list(HEADING.finditer(text))
    starts = [0, *(heading.end() for heading in headings)]
    ends = [*(heading.start() for heading in headings), len(text)]
    for title, start, end in zip(
        ["", *(heading[1].strip() for heading in headings)], starts, ends, strict=True
    ):
        yield title, text[start:end]


def tables_with_figures(text: str) -> Iterator[tuple[str, str]]:
    """Section and first column of each table that has measured numbers in most cells of some other column."""
    for title, below in sections_of(text):
        for names, *rows in tables_of(below):
            columns = [
                [row[index] for row in rows if index < len(row) and row[index]]
                for index in range(1, len(names))
            ]
            if any(cells and 2 * sum(map(_is_measured, cells)) > len(cells) for cells in columns):
                yield title, names[0]


def _is_measured(cell: str) -> bool:
    return MEASURED.match(cell) is not None


def _in_table(entry: Mapping[str, Any], text: str) -> Iterator[Figure]:
    """One figure per row and column. In a key "{0}" is the text of the row's first cell, "{0:n}" its number."""
    where = f"{entry['document']}, {entry.get('section', 'top')}"
    table = next((rows for rows in tables_of(text) if rows[0][0] == entry["table"]), None)
    if table is None:
        raise RegistryError(f"{where}: no table begins with a column {entry['table']!r}")
    names, *rows = table
    chosen = [row for row in rows if "rows" not in entry or row[0] in entry["rows"]]
    missing = set(entry.get("rows", ())) - {row[0] for row in chosen}
    if missing or not chosen:
        raise RegistryError(f"{where}: the table has no row {', '.join(sorted(missing)) or 'at all'}")
    for column in entry["columns"]:
        if column["column"] not in names:
            raise RegistryError(f"{where}: the table has no column {column['column']!r}")
        for row in chosen:
            numbers = NUMBER.findall(row[names.index(column["column"])])
            part = column.get("part", 0)
            if len(numbers) <= part:
                raise RegistryError(f"{where}: there is no figure at {row[0]!r}, {column['column']!r}")
            place = f"{where}: {row[0]}, {column['column']}" + (
                f", number {part + 1}" if "part" in column else ""
            )
            key = tuple(_filled(step, row, entry.get("names", {})) for step in column["key"])
            yield Figure(place, numbers[part], entry["run"], key, **_judged(column))


def _filled(step: Any, row: Sequence[str], names: Mapping[str, str]) -> Any:
    """A step of a key with the cells of a row in it."""
    if isinstance(step, Mapping):
        return {name: _filled(value, row, names) for name, value in step.items()}
    if not isinstance(step, str):
        return step

    def cell(found: re.Match[str]) -> str:
        text = row[int(found[1])]
        number = NUMBER.search(text)
        return number[0].replace(",", "") if found[2] and number else names.get(text, text)

    return CELL.sub(cell, step)


def _in_sentence(entry: Mapping[str, Any], text: str) -> Iterator[Figure]:
    """The number in the place of "{}" in a sentence; spaces stand for any white space."""
    words = " ".join(text.split())
    pattern = re.escape(entry["sentence"]).replace(re.escape("{}"), f"({NUMBER.pattern})", 1)
    pattern = pattern.replace(re.escape("{}"), NUMBER.pattern)
    match = re.search(pattern, words)
    where = f"{entry['document']}, {entry.get('section', 'top')}"
    if match is None:
        raise RegistryError(f"{where}: there is no {entry['sentence']!r}")
    place = f"{where}: {entry['sentence']}"
    yield Figure(place, match[1], entry["run"], tuple(entry["key"]), **_judged(entry))


def _in_json(entry: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Figure]:
    """The same values of each entry of a list, in a document that a run wrote as it will write it again."""
    name = entry["by"]
    for item in document[entry["list"]]:
        for value in entry["columns"]:
            key = (entry["list"], {name: item[name]}, value["key"])
            place = f"{entry['document']}: {name} {item[name]}, {value['key']}"
            yield Figure(place, f"{item[value['key']]:.6f}", entry["run"], key, **_judged(value))


def _judged(told: Mapping[str, Any]) -> dict[str, Any]:
    """How a figure is compared, as the registry tells it."""
    return {name: told[name] for name in ("scale", "seconds", "whole", "slack") if name in told}


def value_at(result: Any, key: Key) -> float | None:
    """A number in a result, None if it is not there.

    >>> value_at({"rows": [{"heads": 4, "hits": 0.5}, {"heads": 8, "hits": 0.25}]}, ("rows", {"heads": "8"}, "hits"))
    0.25

    Args:
        result: what a run printed.
        key: the way there.
    """
    for step in key:
        if isinstance(step, str):
            result = result.get(step) if isinstance(result, Mapping) else None
        elif isinstance(result, Sequence):
            result = next((item for item in result if _has(item, step)), None)
    return float(result) if isinstance(result, (int, float)) and not isinstance(result, bool) else None


def _has(item: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether an entry of a list has all of these values; what comes from a document is text."""
    return isinstance(item, Mapping) and all(
        item.get(name) == value or str(item.get(name)) == value for name, value in wanted.items()
    )


def compared(figures: Sequence[Figure], results: Mapping[str, Any]) -> list[Finding]:
    """Each figure of the runs that were made, beside what they gave.

    Args:
        figures: of the documents.
        results: by the name of the run.
    """
    found = []
    for figure in figures:
        if figure.run in results:
            value = value_at(results[figure.run], figure.key)
            found.append(Finding(figure, None if value is None else value * figure.scale))
    return found
