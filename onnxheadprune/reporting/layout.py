"""Small pieces that all reports share."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from onnxheadprune.model.spelling import change, count, escaped, in_markdown, many, measure, share, size

__all__ = [
    "LABEL",
    "Row",
    "SafeTable",
    "bullet",
    "change",
    "count",
    "heading",
    "item",
    "many",
    "markdown_table",
    "measure",
    "row",
    "share",
    "size",
    "table",
]

LABEL = 12
"""Width of the labels."""
LEAST_CELL = 16
"""Characters that a column which wraps is given at least."""
_ENDLESS, _INDENT = 10_000, "   "


class SafeTable(Table):
    """A table of which nothing is ever cut off.

    Cells stay in their row, whatever is in them. Where the columns do not fit beside each other, those that may wrap
    become narrower; where that is not enough, each row becomes a paragraph that begins with what identifies it.

    Attributes:
        names: leading columns that identify a row.
    """

    names = 1

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Add a row; strings are names and numbers, and are escaped."""
        super().add_row(*(escaped(cell) if isinstance(cell, str) else cell for cell in cells), **settings)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose the layout by the available width."""
        if self._needed(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            yield from self._paragraph(cells, console, options.max_width)

    def _needed(self, console: Console, options: ConsoleOptions) -> int:
        """Columns of a terminal that the narrowest layout as a table takes."""
        natural = self.__rich_measure__(console, options.update(max_width=_ENDLESS)).maximum
        spare = 0
        for column in self.columns:
            if not column.no_wrap:
                longest = max(cell_len(_plain(cell)) for cell in (column.header, *column.cells))
                spare += max(longest - max(LEAST_CELL, cell_len(_plain(column.header))), 0)
        return natural - spare

    def _paragraph(self, cells: Sequence[RenderableType], console: Console, width: int) -> RenderResult:
        shown = [cell if isinstance(cell, Text) else Text(_plain(cell)) for cell in cells]
        first = Text("  ", style="bold").join(cell for cell in shown[: self.names] if cell.plain)
        first.stylize("bold")
        yield from first.wrap(console, width)
        rest = [
            Text.assemble(f"{_plain(column.header)} ".lstrip(), cell)
            for column, cell in zip(self.columns[self.names :], shown[self.names :], strict=True)
            if cell.plain
        ]
        for line in Text("; ").join(rest).wrap(console, width - len(_INDENT)):
            yield Text.assemble(_INDENT, line)


def _plain(cell: RenderableType) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def heading(text: str, style: str = "bold") -> Text:
    """A line of its own that names something."""
    return Text(escaped(text), style=style)


def table(*columns: str, numeric: Iterable[str] = (), wraps: Iterable[str] = ()) -> Table:
    """An empty table.

    Args:
        columns: their names; the first one identifies a row, after "#" the second one too.
        numeric: columns that are aligned to the right.
        wraps: columns of sentences and lists, which wrap where the terminal is narrow.
    """
    made = SafeTable(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    made.names = 2 if "#" in columns[:2] else 1
    right, wrapping = set(numeric), set(wraps)
    for column in columns:
        justify: Literal["right", "left"] = "right" if column in right else "left"
        made.add_column(column, justify=justify, overflow="fold", no_wrap=column not in wrapping)
    return made


@dataclass(frozen=True)
class Row:
    """A label and a sentence that wraps beside it, without padding on the right."""

    label: str
    text: str
    style: str = ""
    indent: int = LABEL

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Wraps to the width at hand."""
        width = max(options.max_width - self.indent, 20)
        lines = textwrap.wrap(escaped(self.text), width, break_on_hyphens=False) or [""]
        yield Text.assemble((escaped(self.label).ljust(self.indent), "bold"), (lines[0], self.style))
        for line in lines[1:]:
            yield Text(" " * self.indent + line, style=self.style)


def row(label: str, text: str, style: str = "") -> Row:
    """A labelled sentence."""
    return Row(label, text, style)


def bullet(text: str, style: str = "") -> Row:
    """A sentence below a label."""
    return Row("", text, style)


def item(text: str, style: str = "") -> Row:
    """A line of a list of its own."""
    return Row("  -", text, style, indent=4)


def markdown_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[str] = ()
) -> list[str]:
    """Lines of a table in Markdown; `numeric` columns are aligned to the right."""
    marks = ("---:" if column in numeric else ":---" for column in columns)
    head, *body = (f"| {' | '.join(map(in_markdown, cells))} |" for cells in (columns, *rows))
    return [head, f"| {' | '.join(marks)} |", *body]
