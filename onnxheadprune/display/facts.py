"""Results as values: a sentence, figures, tables, remarks and plots, which every writer shows.

The terminal (`reporting/console.py`), Markdown (`display/markdown.py`) and HTML (`display/html.py`, for notebooks and
pages) write the same values in the same order; plots are drawn on pages and in files (`reporting/pictures`). Where
these values are made is decided what a result says. A document of `--json` holds them, so that a page is made from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnxheadprune.model.typed_json import JsonObject

State: TypeAlias = Literal["", "good", "open", "doubtful", "bad"]
"""The judgement in a text; "open" is the reader's to judge, "" is none."""


@dataclass(frozen=True)
class Word:
    """A cell of a table with a state."""

    text: str
    state: State = ""


Cell: TypeAlias = str | Word


@dataclass(frozen=True)
class Fact:
    """A labelled sentence."""

    label: str
    text: str
    state: State = ""
    is_command: bool = False  # it can be pasted into a shell, however narrow the terminal is


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
    numeric: tuple[str, ...] = ()  # columns that are aligned to the right
    wraps: tuple[str, ...] = ()  # columns of sentences and lists, which wrap where there is little room
    title: str = ""

    def __post_init__(self) -> None:
        _require(all(len(row) == len(self.columns) for row in self.rows), "a row has another length")


@dataclass(frozen=True)
class Strip:
    """The units of one site."""

    key: str
    name: str
    scores: tuple[float | None, ...]  # None where unknown
    gone: tuple[int, ...] = ()  # positions of removed units

    def __post_init__(self) -> None:
        _require(
            all(0 <= unit < len(self.scores) for unit in self.gone), "a removed unit is none of the site"
        )


@dataclass(frozen=True)
class UnitMap:
    """A square for each unit of some sites: its score, and whether it is removed."""

    units: str  # what they are called: "heads", "heads and experts"
    strips: tuple[Strip, ...]
    unscored: str  # words on units that are kept and have no score
    scale: str = ""  # the unit of the scores
    title: str = ""

    @property
    def is_scored(self) -> bool:
        """True if any unit has a score."""
        return any(value is not None for strip in self.strips for value in strip.scores)

    def shades(self) -> Iterator[tuple[Strip, list[float | None]]]:
        """Yield each site with shades from 0 to 1: ranks among all scores, so that huge ones do not hide the rest."""
        known = sorted(value for strip in self.strips for value in strip.scores if value is not None)
        last = max(len(known) - 1, 1)
        for strip in self.strips:
            ranks = (None if value is None else bisect_left(known, value) / last for value in strip.scores)
            yield strip, list(ranks)


@dataclass(frozen=True)
class Quantity:
    """One quantity at every point of a plot."""

    label: str  # its name with its unit
    values: tuple[float | None, ...]  # None where it was not measured
    ends: tuple[tuple[float, float] | None, ...] = ()  # of intervals: one for each value, or none at all
    hollow: tuple[bool, ...] = ()  # values without a measurable difference from the original, likewise

    def __post_init__(self) -> None:
        wrong = any(len(each) not in (0, len(self.values)) for each in (self.ends, self.hollow))
        _require(not wrong, "there is not one for each value")

    @property
    def is_known(self) -> bool:
        """True if a line can be drawn."""
        return sum(value is not None for value in self.values) > 1


@dataclass(frozen=True)
class Curves:
    """Quantities along another one, a panel each, above one axis."""

    title: str
    along: Quantity
    quantities: tuple[Quantity, ...]
    mark: int | None = None  # the place of a vertical line
    mark_words: str = ""

    def __post_init__(self) -> None:
        places = len(self.along.values)
        _require(all(len(each.values) == places for each in self.quantities), "a quantity has other places")
        _require(self.mark is None or 0 <= self.mark < places, "the mark is at no place")


@dataclass(frozen=True)
class Intervals:
    """Quantities in groups of rows, a row each, above one axis."""

    title: str
    label: str  # of the axis
    groups: tuple[str, ...]
    quantities: tuple[Quantity, ...]

    def __post_init__(self) -> None:
        _require(
            all(len(each.values) == len(self.groups) for each in self.quantities), "a group has no value"
        )


Plot: TypeAlias = UnitMap | Curves | Intervals
Part: TypeAlias = Fact | Figures | Table | Plot


@dataclass(frozen=True)
class Facts(JsonObject):
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
    """A cell as text."""
    return cell.text if isinstance(cell, Word) else cell


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise ValueError(otherwise)
