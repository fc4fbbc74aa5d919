"""Consoles for people. Colors follow the terminal and NO_COLOR; nothing here is markup."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable

import click
from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from onnxheadprune.model.spelling import escaped

PIPE_WIDTH = 160
"""Width where nobody looks at a terminal: wide enough that `grep` finds whole rows."""
LEAST_WIDTH, MOST_WIDTH = 40, 1000
"""What COLUMNS may ask for; less tears words apart, more is no terminal's."""


class Console(RichConsole):
    """Prints what is text and nothing that a terminal obeys: names of models come from anywhere."""

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
    """Whether the command that is running was called with a switch."""
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


def print_error(message: str) -> None:
    """One red line on stderr, never wrapped by us."""
    line = escaped(" ".join(message.split()))
    _console(stderr=True).print(Text(f"error: {line}", style="red"), soft_wrap=True)
