"""Consoles for people, rows and tables. Colors follow the terminal and NO_COLOR; nothing here is markup."""

from __future__ import annotations

import io
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from onnxheadprune.display.facts import Cell, Fact, Facts, Figure, Figures, Part, State, UnitMap, Word
from onnxheadprune.display.facts import Table as FactTable
from onnxheadprune.display.spelling import escaped
from onnxheadprune.settings.words import option, spelled_by

if TYPE_CHECKING:
    from onnxheadprune.runtime import Provider

PIPE_WIDTH = 160
"""Width where nobody looks at a terminal: wide enough that `grep` finds whole rows."""
LEAST_WIDTH, MOST_WIDTH = 40, 1000
"""Bounds of COLUMNS; less tears words apart, more is no terminal's."""


class Console(RichConsole):
    """Prints what is text and nothing that a terminal obeys: names of models come from anywhere; cuts nothing off."""

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print; a line that is longer than the terminal is the terminal's to wrap."""
        super().print(*objects, **{"crop": False, **settings})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments with every control character spelled out, but for the ends of lines."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escaped(segment.text, lines=True))


def out() -> Console:
    """Results, on stdout; with --quiet nothing is printed."""
    return _console(stderr=False, quiet=is_asked("quiet"))


def err() -> Console:
    """Progress and warnings, on stderr; with --quiet nothing is printed."""
    return _console(stderr=True, quiet=is_asked("quiet"))


def is_asked(name: str) -> bool:
    """Return whether the command that is running was called with a switch."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.params.get(name))


def _console(*, stderr: bool, quiet: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = _asked_width()
    if width is None and not stream.isatty():
        width = PIPE_WIDTH
    # Rich would read what is no width as one of zero, and print nothing.
    told = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return Console(
        stderr=stderr, highlight=False, markup=False, emoji=False, width=width, quiet=quiet, _environ=told
    )


def _asked_width() -> int | None:
    """The width that COLUMNS asks for, within those that a table can be read at; None where it is no width."""
    asked = os.environ.get("COLUMNS", "")
    if not re.fullmatch(r"0*[1-9][0-9]*", asked):
        return None
    digits = asked.lstrip("0")
    return MOST_WIDTH if len(digits) > 4 else min(max(int(digits), LEAST_WIDTH), MOST_WIDTH)


def text_of(rows: Iterable[RenderableType]) -> str:
    """Rows as text without colors, as wide as standard output."""
    width = _console(stderr=False).width
    console = Console(
        file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False, color_system=None
    )
    with console.capture() as captured:
        console.print(*rows, sep="\n")
    return captured.get().rstrip("\n")


def print_error(message: str) -> None:
    """One red line on stderr, never wrapped by us."""
    line = escaped(" ".join(spelled_by(option, message).split()))
    _console(stderr=True).print(Text(f"error: {line}", style="red"), soft_wrap=True)


LABEL = 12
"""Width of the labels."""
NEXT = 7
"""Width of the labels of what comes next, and of the files that were written."""
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

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """Choose the layout by the available width."""
        if self._needed(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            yield from self._paragraph(cells, console, options.max_width)

    def _needed(self, console: RichConsole, options: ConsoleOptions) -> int:
        """Columns of a terminal that the narrowest layout as a table takes."""
        natural = self.__rich_measure__(console, options.update(max_width=_ENDLESS)).maximum
        spare = 0
        for column in self.columns:
            if not column.no_wrap:
                longest = max(cell_len(_plain(cell)) for cell in (column.header, *column.cells))
                spare += max(longest - max(LEAST_CELL, cell_len(_plain(column.header))), 0)
        return natural - spare

    def _paragraph(self, cells: Sequence[RenderableType], console: RichConsole, width: int) -> RenderResult:
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
    is_command: bool = False  # lines end as a shell continues them, so that what is copied can be run

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """Wrap to the width of the console."""
        width = max(options.max_width - self.indent, 20)
        if self.is_command:
            lines = _continued(escaped(self.text), width)
        else:
            lines = textwrap.wrap(escaped(self.text), width, break_on_hyphens=False) or [""]
        # A word of a command is never broken, however narrow the terminal is.
        whole: Any = {"no_wrap": True, "overflow": "ignore"} if self.is_command else {}
        label = escaped(self.label).ljust(self.indent), "bold"
        yield Text.assemble(label, (lines[0], self.style), **whole)
        for line in lines[1:]:
            yield Text(" " * self.indent + line, style=self.style, **whole)


def _continued(command: str, width: int) -> list[str]:
    """Break a command between its words, which are never broken themselves."""
    lines = [""]
    for word in re.findall(r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"])+", command):
        if lines[-1] and len(lines[-1]) + len(f" {word} \\") > width:
            lines[-1] += " \\"
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def next_call(command: str) -> Row:
    """The command that a reader would type next."""
    return Row("next", command, indent=NEXT, is_command=True)


def row(label: str, text: str, style: str = "") -> Row:
    """A labelled sentence."""
    return Row(label, text, style)


def provider_rows(provider: Provider) -> Iterator[Row]:
    """Yield the warning that a GPU could not be used, if there is one."""
    if provider.warning is not None:
        yield row("warning", provider.warning, "bold yellow")


STYLES: Mapping[State, str] = {
    "": "",
    "good": "bold green",
    "open": "bold cyan",
    "doubtful": "bold yellow",
    "bad": "bold red",
}
_TITLE, _GAP = 24, 3
"""Characters of a title that the answer begins beside, and blanks between columns of figures."""


def rows_of(facts: Facts) -> Iterator[RenderableType]:
    """A result for the terminal: the answer, then every part; with --verbose the details, too."""
    facts = spelled_by(option, facts)
    if facts.answer and cell_len(facts.title) <= _TITLE:
        yield Row(facts.title + " " * _GAP, facts.answer, STYLES[facts.state], cell_len(facts.title) + _GAP)
    else:
        yield heading(facts.title)
        if facts.answer:
            yield Row("  ", facts.answer, STYLES[facts.state], indent=2)
    before: Part | None = None
    for part in facts.everything if is_asked("verbose") else facts.parts:
        rows = list(_rows_of_part(part))
        if rows and not (isinstance(part, Fact) and isinstance(before, Fact)):
            yield ""
        yield from rows
        before = part if rows else before


def _rows_of_part(part: Part) -> Iterator[RenderableType]:
    """A part for the terminal; plots other than those of units are for pages, and tables have their numbers."""
    if isinstance(part, Fact):
        style = STYLES[part.state].removeprefix("bold ")
        yield Row(part.label, part.text, style, is_command=part.is_command)
    elif isinstance(part, Figures):
        yield _FigureRows(part.rows)
    elif isinstance(part, UnitMap):
        yield from _map(part)
    elif isinstance(part, FactTable) and part.rows:
        if part.title:
            yield heading(part.title)
        made = table(*part.columns, numeric=part.numeric, wraps=part.wraps)
        for cells in part.rows:
            made.add_row(*map(_shown, cells))
        yield made


def _shown(cell: Cell) -> RenderableType:
    return Text(escaped(cell.text), STYLES[cell.state]) if isinstance(cell, Word) else cell


_SHADES = "░▒▓█"
_TOGETHER = 4
"""Squares from one gap to the next, by which they are counted."""
_KEPT, _REMOVED = "dodger_blue1", "dark_orange"
"""Blue for remaining heads and orange for removed ones, as in plots."""


def _map(part: UnitMap) -> Iterator[RenderableType]:
    """A symbol per unit, in groups of four, and what the symbols mean."""
    most = max((len(strip.scores) for strip in part.strips), default=0)
    made = table("#", "site", f"{part.units} 0 to {most - 1}")
    has_unscored = False
    for strip, shades in part.shades():
        drawn = Text()
        for position, shade in enumerate(shades):
            if position and not position % _TOGETHER:
                drawn.append(" ")
            if position in strip.gone:
                drawn.append("x", _REMOVED)
            elif shade is None:
                has_unscored = True
                drawn.append("·", "dim")
            else:
                drawn.append(_SHADES[min(int(shade * len(_SHADES)), len(_SHADES) - 1)], _KEPT)
        made.add_row(strip.key, strip.name, drawn)
    yield made
    words = [f"{_SHADES} low to high score, by rank over all sites"] if part.is_scored else []
    words += ["x removed"] if any(strip.gone for strip in part.strips) else []
    words += [f"· {part.unscored}"] if has_unscored else []
    yield Row("", "; ".join(words), "dim", indent=2)


@dataclass(frozen=True)
class _FigureRows:
    """Quantities below each other: before -> after, the change, and on what; notes wrap where there is little room."""

    rows: tuple[Figure, ...]

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> RenderResult:
        """Align the columns, and wrap the notes to the width of the console."""
        pairs = [row for row in self.rows if row.after]
        name = max((cell_len(escaped(row.name)) for row in self.rows), default=0)
        was, now, change = (
            max((cell_len(getattr(row, field)) for row in pairs), default=0)
            for field in ("before", "after", "change")
        )
        values = was + now + len(" -> ") + _GAP + change
        below = 2 + name + _GAP
        if below + values > options.max_width:
            # Where columns do not fit beside each other, every row is aligned alone.
            name = was = now = change = values = 0
            below = NEXT
        for row in self.rows:
            value = row.before
            if row.after:
                value = (
                    f"{row.before.rjust(was)} -> {row.after.ljust(now)}{' ' * _GAP}{row.change.rjust(change)}"
                )
            line = Text.assemble("  ", (escaped(row.name).ljust(name) + " " * _GAP, "bold"))
            if line.cell_len + cell_len(value) > options.max_width:
                line.rstrip()
                yield line
                line = Text(" " * below)
            at = line.cell_len + (max(values, cell_len(value)) + _GAP if value else 0)
            line.append(escaped(value))
            if options.max_width - at < LEAST_CELL and value and row.note:
                yield line
                line, at = Text(" " * below), below
            notes = textwrap.wrap(
                escaped(row.note), max(options.max_width - at, LEAST_CELL), break_on_hyphens=False
            )
            line.append(" " * (at - line.cell_len) if notes else "")
            for number, text in enumerate(notes or [""]):
                first = line if not number else Text(" " * at)
                first.append(text, "dim" if value else "yellow")
                first.rstrip()
                yield first
