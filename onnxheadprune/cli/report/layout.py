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

from onnxheadprune.cli.report.escaping import escaped

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


def count(number: int) -> str:
    """A number with thousands separators."""
    return f"{number:,}"


def many(number: int, noun: str) -> str:
    """The number with its noun: "1 head", "2 heads"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size(bytes_: int) -> str:
    """Bytes in the unit a person would choose."""
    amount = float(bytes_)
    for unit in ("B", "kB", "MB", "GB"):
        # What would be rounded to 1000.00 is 1.00 of the next unit.
        if amount < 999.995 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.2f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable")


def measure(error: float) -> str:
    """A relative error: "0" or "3.1e-07"."""
    return f"{error:.1e}" if error else "0"


def share(part: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * part:.1f} %"


def change(before: float, after: float) -> str:
    """How a number changed, with its sign: "-24.3 %", "+1.2 %", "unchanged"."""
    if before == after:
        return "unchanged"
    if not before:
        return "new"
    part = 100 * (after - before) / before
    return f"{part:+.1f} %" if abs(part) >= 0.05 else f"less than {'+' if part > 0 else '-'}0.1 %"


def heads(indices: Iterable[int]) -> str:
    """Head indices with runs shortened: "0-3,7"."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
