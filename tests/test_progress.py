"""What long work says on the way: lines with times in a log, nothing for short work."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

from onnxheadprune.cli.report.console import Console
from onnxheadprune.cli.report.progress import LINE_SECONDS, QUIET_SECONDS, Lines, progress_on


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines() -> tuple[Lines, Clock, io.StringIO]:
    clock, text = Clock(), io.StringIO()
    return Lines(Console(file=text, width=200), clock), clock, text


def test_short_work_is_silent() -> None:
    told, clock, text = lines()
    for step in range(10):
        told.tell("measuring", step, 10)
        clock.now += (QUIET_SECONDS - 0.5) / 10
    assert text.getvalue() == ""


def test_long_work_says_stages_and_the_time_left() -> None:
    told, clock, text = lines()
    told.tell("measuring", 0, 40)
    for step in range(1, 31):
        clock.now += 2
        told.tell("measuring", step, 40)
    told.tell("compensating", 0, 0)
    found = text.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in found)
    assert found[0].endswith("measuring: 3 of 40, 74 s left")
    assert len(found) == 1 + (60 - 6) // LINE_SECONDS + 1
    assert found[-1].endswith(" compensating")


def test_minutes_are_minutes() -> None:
    told, clock, text = lines()
    told.tell("measuring", 0, 40)
    clock.now += 30
    told.tell("measuring", 2, 40)
    assert text.getvalue().rstrip().endswith("measuring: 2 of 40, 9 min 30 s left")


def test_a_log_gets_lines_and_a_terminal_a_bar() -> None:
    text = io.StringIO()
    with progress_on(Console(file=text, force_terminal=True, width=100)) as tell:
        tell("measuring", 1, 2)
    assert "measuring" in text.getvalue() and "1/2" in text.getvalue()
    silent = io.StringIO()
    with progress_on(Console(file=silent, width=100)) as tell:
        tell("measuring", 1, 2)
    assert silent.getvalue() == ""


def test_a_shell_that_asks_gets_its_completions() -> None:
    asked = {"COMP_WORDS": "onnxheadprune pr", "COMP_CWORD": "1"}
    for value, expected in (("bash_source", "complete -o nosort"), ("bash_complete", "plain,prune")):
        environment = os.environ | asked | {"_ONNXHEADPRUNE_COMPLETE": value}
        call = [sys.executable, "-c", "from onnxheadprune.cli import main; main()"]
        found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        assert expected in found.stdout and found.stderr == ""
