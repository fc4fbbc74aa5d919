"""`onnxheadprune reduce`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.belonging import LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.durations import duration
from onnxheadprune.cli.options import FILE, OUTPUT, json_option
from onnxheadprune.cli.outcome import INTERRUPTED
from onnxheadprune.cli.presenting import Presentation
from onnxheadprune.cli.when import read_when

if TYPE_CHECKING:
    from onnxheadprune.workflow.reducing.process import Trier


@dataclass(frozen=True)
class ReduceOptions:
    """What `reduce` is given."""

    model: Path
    when: str
    output: Path
    saying: str | None
    patience: float
    limit: float
    memory: float | None
    seed: int
    as_json: bool


@click.command(
    "reduce", cls=LawfulCommand, short_help="Make a model that a command fails on small and anonymous."
)
@click.argument("model", type=FILE)
@click.option(
    "--when",
    required=True,
    metavar="COMMAND",
    help='The command that fails, without the model and without outputs, as in "prune --heads 3:0".',
)
@click.option(
    "-o", "--output", type=OUTPUT, required=True, metavar="OUT", help="Where to write the reduced model."
)
@click.option(
    "--saying",
    metavar="TEXT",
    help="What the command must go on to print, if it does not fail but says what is wrong [default: the same error].",
)
@click.option(
    "--budget",
    "patience",
    type=duration,
    default="10m",
    show_default=True,
    metavar="TIME",
    help="How long to search; the smallest model so far is written then, and after Ctrl-C.",
)
@click.option(
    "--limit",
    type=duration,
    default="2m",
    show_default=True,
    metavar="TIME",
    help="How long the command may take for one model; that it takes longer is a failure like any other.",
)
@click.option(
    "--memory",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="How much memory the command may take, on Linux [default: nine tenths of what the machine has].",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random weights."
)
@json_option
@bundled(ReduceOptions)
def reduce_(given: ReduceOptions) -> int:
    """Shrink MODEL while a command keeps failing on it in the same way, and write what is left to OUT.

    What is left has random weights, numbers for names, and no texts or metadata: it can be attached to a report. The
    same failure means the same exit code and the same error but for names and numbers, or the same crash.
    """
    from onnxheadprune.cli import group
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.cli.report.progress import progress_on
    from onnxheadprune.cli.report.reduction import reduction_report
    from onnxheadprune.workflow.reducing.reduce import ReduceRequest, Reduction, reduce_model

    line, heads = read_when(given.when, group)
    request = ReduceRequest(line, heads, given.output, given.saying, given.patience, given.seed)
    memory = most_memory() if given.memory is None else int(given.memory * 2**30)
    presentation = Presentation()

    def ready(result: Reduction) -> None:
        if given.as_json:
            presentation.json(result.to_dict())
        else:
            presentation.rows(*reduction_report(result))

    with progress_on(err()) as progress, trier_with(given.limit, memory) as trier:
        result = reduce_model(given.model, request, trier, progress, ready)
    lost = presentation.deliver(result.output)
    return INTERRUPTED if result.stopped == "interrupted" else lost


def most_memory() -> int | None:
    """Nine tenths of the machine's memory in bytes, None where the system does not tell.

    A candidate may compute with sizes that nobody meant.
    """
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 9 // 10
    except (AttributeError, ValueError, OSError):
        return None


@contextlib.contextmanager
def trier_with(seconds: float, memory: int | None) -> Iterator[Trier]:
    """What runs command lines, in a process that ends with it.

    Args:
        seconds: that one may take.
        memory: bytes that the process may hold, None for any number.
    """
    from onnxheadprune.cli.attempting import attempt
    from onnxheadprune.workflow.reducing.process import ProcessTrier

    trier = ProcessTrier(attempt, seconds, memory)
    try:
        yield trier
    finally:
        trier.renew()
