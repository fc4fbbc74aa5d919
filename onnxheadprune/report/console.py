"""Where text for people goes. Colours follow the terminal and NO_COLOR; nothing here is markup."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 160
"""Width where nobody looks at a terminal: wide enough that `grep` finds whole rows."""


def out() -> Console:
    """Results, on stdout."""
    return _console(stderr=False)


def err() -> Console:
    """Progress and errors, on stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(
        stderr=stderr, highlight=False, markup=False, emoji=False, width=PIPE_WIDTH if piped else None
    )


def print_error(message: str) -> None:
    """One red line on stderr, never wrapped by us."""
    line = " ".join(message.split())
    err().print(Text(f"error: {line}", style="red"), soft_wrap=True)
