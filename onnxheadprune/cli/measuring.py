"""Options that say what to measure and for how long: sizes, repeats, threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

from onnxheadprune.cli.options import stacked

if TYPE_CHECKING:
    from onnxheadprune.benchmarking.request import Measuring

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Timing:
    """What latency is measured at: `--batch`, `--seq`, `--past`, `--dim`, `--repeats`, `--time-budget`, `--threads`."""

    batch: tuple[int, ...] | None
    seq: tuple[int, ...] | None
    past: tuple[int, ...] | None
    dims: dict[str, int]
    repeats: int | None
    time_budget: float
    threads: int | None


def read_measuring(timing: Timing) -> Measuring:
    """What a benchmark measures, as the options say it."""
    from onnxheadprune.benchmarking.grid import Asked
    from onnxheadprune.benchmarking.measure import Quota
    from onnxheadprune.benchmarking.request import Measuring

    sizes = Asked(timing.batch, timing.seq, timing.past, timing.dims)
    return Measuring(sizes, Quota(timing.repeats, timing.time_budget), timing.threads)


def sizes(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Numbers from "1,8"."""
    if value is None:
        return None
    try:
        found = tuple(int(item) for item in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of whole numbers like 1,8") from None
    if min(found) < 1:
        raise click.BadParameter("sizes are numbers from 1 up")
    return tuple(dict.fromkeys(found))


def named_sizes(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    """A mapping from "height=224"."""
    found = {}
    for item in value:
        name, _, size = item.rpartition("=")
        if not name or not size.isdigit() or int(size) < 1:
            raise click.BadParameter(f"{item!r} is not of the form NAME=SIZE")
        found[name] = int(size)
    return found


def measuring_options(function: Function) -> Function:
    """The options of `Timing`."""
    options = (
        click.option("--batch", callback=sizes, metavar="N,N", help="Batch sizes [default: 1,8]."),
        click.option(
            "--seq", callback=sizes, metavar="N,N", help="Sequence lengths [default: 128, or what runs]."
        ),
        click.option(
            "--past", callback=sizes, metavar="N,N", help="Cache lengths: one new token behind each."
        ),
        click.option(
            "--dim",
            "dims",
            callback=named_sizes,
            multiple=True,
            metavar="NAME=N",
            help="Size of one symbolic dimension; can be repeated.",
        ),
        click.option(
            "--repeats",
            type=click.IntRange(min=5),
            metavar="N",
            help="Blocks per size, in place of a time budget.",
        ),
        click.option(
            "--time-budget",
            type=click.FloatRange(min=0, min_open=True),
            default=10.0,
            show_default=True,
            metavar="S",
            help="Seconds per size, for all models together.",
        ),
        click.option(
            "--threads", type=click.IntRange(min=1), metavar="N", help="Threads of the CPU's kernels."
        ),
    )
    return stacked(function, options)
