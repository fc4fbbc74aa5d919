"""What long work says on the way: lines with times in a log, nothing for short work."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxheadprune.choosing.targets import PruningTarget
from onnxheadprune.cli.cutting import stages_of
from onnxheadprune.reporting.console import Console
from onnxheadprune.reporting.progress import (
    LINE_SECONDS,
    LINE_WIDTH,
    QUIET_SECONDS,
    Course,
    Lines,
    Stage,
    progress_on,
)
from onnxheadprune.runtime.progress import NOTE
from onnxheadprune.training.budget import Budget
from onnxheadprune.workflow.pipeline import run_prune
from onnxheadprune.workflow.requests import Choice, Request, Run
from tests import toys, toys_scores


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(*stages: Stage) -> tuple[Lines, Clock, io.StringIO]:
    clock, text = Clock(), io.StringIO()
    return Lines(Console(file=text, width=200), clock, stages), clock, text


def whole(text: io.StringIO) -> list[str]:
    """The lines before they were wrapped."""
    return text.getvalue().replace("\n" + " " * len("hh:mm:ss"), "").splitlines()


def test_short_work_is_silent() -> None:
    told, clock, text = lines()
    for step in range(10):
        told.tell("measuring", step, 10)
        clock.now += (QUIET_SECONDS - 0.5) / 10
    assert text.getvalue() == ""


def test_long_work_says_stages_and_no_time_that_is_not_known() -> None:
    told, clock, text = lines()
    told.tell("measuring", 0, 40)
    for step in range(1, 31):
        clock.now += 2
        told.tell("measuring", step, 40)
    told.tell("refitting", 0, 0)
    found = text.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in found)
    # What follows is not known, so neither is the end.
    assert found[0].endswith("measuring: 3 of 40")
    assert len(found) == 1 + (60 - 6) // LINE_SECONDS + 1
    assert found[-1].endswith(" refitting")


def test_minutes_are_minutes() -> None:
    told, clock, text = lines(Stage("measuring", ("measuring",)))
    told.tell("measuring", 0, 40)
    clock.now += 30
    told.tell("measuring", 2, 40)
    assert text.getvalue().rstrip().endswith("1 of 1, measuring: 2 of 40, about 9 min 30 s left in all")


def test_a_log_gets_lines_and_a_terminal_a_bar() -> None:
    text = io.StringIO()
    with progress_on(Console(file=text, force_terminal=True, width=100)) as tell:
        tell("measuring", 1, 2)
    assert "measuring" in text.getvalue() and "1 of 2" in text.getvalue()
    silent = io.StringIO()
    with progress_on(Console(file=silent, width=100)) as tell:
        tell("measuring", 1, 2)
    assert silent.getvalue() == ""


STAGES = (
    Stage("measuring what cuts cost", ("measuring what",), weight=2),
    Stage("refitting", ("refitting",), weight=4),
    Stage("recovering", ("recovering", "looking for"), seconds=600),
    Stage("validating", ("validating",), weight=3),
)


def test_the_time_left_is_that_of_the_whole_call() -> None:
    """Where stages take what they usually take, the end is right from early on; a stage alone is never told of."""
    told, clock, text = lines(*STAGES)
    end = clock.now + 20 + 40 + 600 + 30
    works = [("measuring what cuts cost", 20), ("refitting, layer by layer", 40), ("recovering: step", 600)]
    for what, seconds in works:
        for step in range(seconds + 1):
            told.tell(what, step, seconds)
            clock.now += 1 if step < seconds else 0
    told.tell("validating", 0, 0)
    assert all(len(line) <= LINE_WIDTH for line in text.getvalue().splitlines())
    found = whole(text)
    assert found[0].split(" ", 1)[1].startswith("1 of 4, measuring what cuts cost: 5 of 20, about ")
    assert any("2 of 4, refitting" in line and line.endswith("then recovering, validating") for line in found)
    assert all(re.search(r" \d of 4, .*about .* left in all", line) for line in found)
    told, clock, text = lines(*STAGES)
    for what, seconds in works:
        for step in range(seconds):
            told.tell(what, step, seconds)
            left = told._course.left()
            if step > 4:
                assert left is not None and abs(clock.now + left - end) < 6
            clock.now += 1


RECORDED = {
    "two epochs, which were not better than the refit": (
        Budget(epochs=2),
        (
            "reading contexts 4.4 0, measuring what cuts cost 31.6 6, refitting 31.5 18, measuring drift 10.1 0,"
            " looking for a learning rate 1 0, recovering 40.1 62, measuring drift 3.6 0, refitting 29.6 18,"
            " measuring drift 10.5 0, validating 4.3 0"
        ),
    ),
    "25 epochs": (
        Budget(epochs=25),
        (
            "reading contexts 4.4 0, measuring what cuts cost 33.9 6, refitting 66.8 18, measuring drift 14.5 0,"
            " looking for a learning rate 11.4 0, recovering 416.6 775, measuring drift 1.1 0, validating 4.6 0"
        ),
    ),
    "six minutes of ten thousand lines": (
        Budget(seconds=373),
        (
            "reading contexts 3.5 0, measuring what cuts cost 19.4 6, refitting 110.3 18, measuring drift 24.8 0,"
            " looking for a learning rate 16.2 0, recovering 356.9 646, measuring drift 4 0, validating 9.4 0"
        ),
    ),
    "a model of TinyLlama's size": (
        None,
        (
            "reading contexts 136 22, measuring what cuts cost 220 22, refitting 837 35, measuring drift 41 0,"
            " validating 148 0"
        ),
    ),
    "a time for the whole call": (
        Budget(call=240),
        (
            "reading contexts 4.4 0, measuring what cuts cost 31.6 6, refitting 34 18, measuring drift 10 0,"
            " recovering 140 300, measuring drift 8 0, validating 6 0"
        ),
    ),
}
"""Stages of calls, with processor seconds and counts; all but the last were measured."""


@pytest.mark.parametrize(("budget", "works"), RECORDED.values(), ids=RECORDED)
def test_the_time_left_is_right_within_a_factor_of_two(budget: Budget | None, works: str) -> None:
    """At a quarter, half and three quarters of calls whose stages were measured: the weights are those of no call."""
    request = Request(Choice(target=PruningTarget(ratio=0.5), recover=budget), run=Run("cpu", 0, "lines.txt"))
    clock = Clock()
    parts = [stage.rsplit(" ", 2) for stage in works.split(", ")]
    stages = [(what, float(seconds), int(of)) for what, seconds, of in parts]
    course, total = Course(tuple(stages_of(request)), clock), sum(seconds for _, seconds, _ in stages)
    marks, start = [total * part for part in (0.25, 0.5, 0.75)], clock.now
    for what, seconds, of in stages:
        began = clock.now
        for step in range(100):
            clock.now = began + seconds * step / 100
            course.at(what, step * of // 100, of)
            if marks and clock.now - start >= marks[0]:
                truly, left = total - marks.pop(0), course.left()
                assert left is not None and truly / 2 <= left <= truly * 2, (what, truly, left)
        clock.now = began + seconds
    assert not marks


def test_a_stage_that_is_passed_over_or_comes_twice() -> None:
    told, clock, text = lines(*STAGES)
    told.tell("reading the model", 0, 0)
    clock.now += QUIET_SECONDS
    told.tell("refitting", 1, 4)
    clock.now += LINE_SECONDS
    told.tell("measuring what cuts cost", 1, 4)
    clock.now += LINE_SECONDS
    told.tell("something else", 0, 0)
    places = [line.split(" ", 1)[1][:6] for line in whole(text)]
    assert places == ["2 of 4"] * 3


def test_no_bar_is_full_where_nothing_is_known() -> None:
    text = io.StringIO()
    with progress_on(Console(file=text, force_terminal=True, width=100), STAGES) as tell:
        tell("reading the model", 0, 0)
        tell("refitting", 0, 0)
    assert "0/?" not in text.getvalue() and "then recovering, validating" in text.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [PruningTarget(ratio=0.25), PruningTarget(max_drift=1.0), PruningTarget(ratio=0.25, method="taylor")],
)
def test_every_message_of_a_cut_belongs_to_a_stage(target: PruningTarget, tmp_path: Path) -> None:
    """Whatever is asked for: a message that no stage knows would hide where the call is."""
    onnx.save(toys_scores.stack(), tmp_path / "toy.onnx")
    ids = np.random.default_rng(3).integers(0, toys.VOCABULARY, (20, 6))
    np.savez(tmp_path / "ids.npz", input_ids=ids)
    told: list[str] = []
    request = Request(Choice(target=target), run=Run("cpu", 0, str(tmp_path / "ids.npz")))
    run_prune(tmp_path / "toy.onnx", request, lambda what, done, of: told.append(what))
    told = [what for what in told if not what.startswith(NOTE)]
    names = tuple(name for stage in stages_of(request) for name in stage.names)
    assert told and all(what.startswith(names) for what in told), set(told)


@pytest.mark.parametrize(("width", "has_bar"), [(50, False), (80, True), (120, True)])
def test_a_narrow_terminal_keeps_what_is_left(width: int, has_bar: bool) -> None:
    text = io.StringIO()
    names = ("refitting", "recovering", "validating")
    stages = tuple(Stage(name, (name,), seconds=90) for name in names)
    with progress_on(Console(file=text, force_terminal=True, width=width), stages) as tell:
        tell("refitting, layer by layer", 1, 12)
        tell("recovering: loss 0.0123, held out 0.0234", 40, 150)
    whole = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    shown = [line.rstrip() for line in re.split(r"[\r\n]+", whole) if "2 of 3, recovering" in line]
    assert shown and all(len(line) <= width for line in shown)
    assert re.search(r"about (3 min 00|\d+) s left$", shown[-1]), shown
    assert ("━" in shown[-1]) == has_bar
