"""Small pieces that all reports share."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from onnxheadprune.model.spelling import change, count, escaped, heads, many, measure, share, size

__all__ = [
    "LABEL",
    "Row",
    "SafeTable",
    "bullet",
    "change",
    "count",
    "heading",
    "heads",
    "item",
    "many",
    "measure",
    "row",
    "share",
    "size",
    "table",
]

LABEL = 12
"""Width of the labels."""


class SafeTable(Table):
    """A table whose plain cells stay in their row, whatever is in them."""

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Adds a row; strings are names and numbers, and are escaped."""
        super().add_row(*(escaped(cell) if isinstance(cell, str) else cell for cell in cells), **settings)


def heading(text: str, style: str = "bold") -> Text:
    """A line of its own that names something."""
    return Text(escaped(text), style=style)


def table(*columns: str, numeric: Iterable[str] = (), grows: str | None = None) -> Table:
    """An empty table; `grows` is the column that wraps when the terminal is narrow."""
    made = SafeTable(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold"
    )
    right = set(numeric)
    for column in columns:
        justify: Literal["right", "left"] = "right" if column in right else "left"
        overflow: Literal["fold", "ellipsis"] = "fold" if column == grows else "ellipsis"
        made.add_column(column, justify=justify, overflow=overflow, no_wrap=column != grows)
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
