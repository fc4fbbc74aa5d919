"""What long work says on the way: lines with times in a log, nothing for short work."""

from __future__ import annotations

import io

from onnxheadprune.reporting.console import Console
from onnxheadprune.reporting.progress import Lines, progress_on
from onnxheadprune.runtime.progress import Note


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines() -> tuple[Lines, Clock, io.StringIO]:
    clock, text = Clock(), io.StringIO()
    return Lines(Console(file=text, width=200), clock), clock, text


def test_a_note_is_said_once_and_is_no_stage() -> None:
    told, _, text = lines()
    for _ in range(2):
        told.tell(Note("few samples"), 0, 0)
    assert text.getvalue() == "note: few samples\n"


def test_a_log_gets_lines_and_a_terminal_a_bar() -> None:
    text = io.StringIO()
    with progress_on(Console(file=text, force_terminal=True, width=100)) as tell:
        tell("measuring", 1, 2)
    assert "measuring" in text.getvalue() and "1 of 2" in text.getvalue()
    silent = io.StringIO()
    with progress_on(Console(file=silent, width=100)) as tell:
        tell("measuring", 1, 2)
    assert silent.getvalue() == ""
