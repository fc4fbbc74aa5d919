"""Results as values: a sentence, figures, tables and remarks, which three writers show.

The terminal (`reporting/console.py`), Markdown (`model/markdown.py`) and HTML (`model/display.py`, for notebooks and
pages) write the same values in the same order. Where these values are made is decided what a result says.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["", "good", "open", "doubtful", "bad"]
"""The judgement in a text; "open" is the reader's to judge, "" is none."""


@dataclass(frozen=True)
class Word:
    """A cell of a table with a state."""

    text: str
    state: State = ""


@dataclass(frozen=True)
class Squares:
    """A cell that draws the units of a site, a square each."""

    shades: tuple[float | None, ...]  # from 0 to 1, None where unknown
    gone: Collection[int] = ()  # positions of removed units
    words: Sequence[str] = ()  # tooltips, one per square, or none


Cell: TypeAlias = str | Word | Squares


@dataclass(frozen=True)
class Fact:
    """A labelled sentence."""

    label: str
    text: str
    state: State = ""


@dataclass(frozen=True)
class Figure:
    """A quantity before and after, or a single value of it, or why it was not measured."""

    name: str
    before: str = ""
    after: str = ""  # empty where there is one value only, which is `before`
    change: str = ""
    note: str = ""  # on what it was measured; where there is no value, why it was not


@dataclass(frozen=True)
class Figures:
    """Quantities below each other."""

    rows: tuple[Figure, ...]


@dataclass(frozen=True)
class Table:
    """A table with names of columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: Collection[str] = ()  # columns that are aligned to the right
    wraps: Collection[str] = ()  # columns of sentences and lists, which wrap where there is little room


Part: TypeAlias = Fact | Figures | Table


@dataclass(frozen=True)
class Facts:
    """Everything that one result says."""

    title: str  # what it is about, the name of a file for one
    answer: str = ""  # the sentence that is read first, empty where the title says it
    state: State = ""  # how to take the answer
    parts: tuple[Part, ...] = ()  # what follows, in this order
    details: tuple[Part, ...] = ()  # what is shown where there is room: in notebooks, with --verbose

    @property
    def everything(self) -> tuple[Part, ...]:
        """All parts, with the details, each once."""
        return (*self.parts, *(part for part in self.details if part not in self.parts))


def plain(cell: Cell) -> str:
    """A cell as text; units that are drawn are named by their positions."""
    if isinstance(cell, Squares):
        return ", ".join(map(str, sorted(cell.gone))) or "-"
    return cell.text if isinstance(cell, Word) else cell


def drawn(
    sites: Iterable[tuple[str, str, Sequence[float | None], Collection[int]]], units: str, unscored: str
) -> Table:
    """A table with a square for each unit of some sites, shaded by the rank of its score among those of all.

    Ranks, so that a few huge scores do not hide the rest.

    Args:
        sites: number and name of each, scores of its units, and the removed ones.
        units: what they are called.
        unscored: words on units that are kept and have no score.
    """
    sites = tuple(sites)
    known = sorted(value for _, _, values, _ in sites for value in values if value is not None)
    last = max(len(known) - 1, 1)
    unit = units.removesuffix("s") if units.isalpha() else "unit"

    def squares(values: Sequence[float | None], gone: Collection[int]) -> Squares:
        words = [
            unscored if value is None else f"{unit} {position}: {value:.3g}"
            for position, value in enumerate(values)
        ]
        for position in gone:
            words[position] = f"removed{'' if values[position] is None else f', {words[position]}'}"
        ranks = (None if value is None else bisect_left(known, value) / last for value in values)
        return Squares(tuple(ranks), gone, words)

    rows = tuple((key, name, squares(values, gone)) for key, name, values, gone in sites)
    return Table(("#", "site", units), rows)
