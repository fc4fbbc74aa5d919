"""Where calibration data comes from on the command line, and how much of it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from onnxheadprune.cli.options import FILE, Running, stacked

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.feeds import DataSource

Function = TypeVar("Function", bound=Callable[..., object])


def numbers(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[float, ...] | None:
    """Numbers from "0.485,0.456,0.406"."""
    if value is None:
        return None
    try:
        return tuple(float(item) for item in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers like 0.485,0.456,0.406") from None


def picture_size(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    """Height and width from "224" or "224x192"."""
    if value is None:
        return None
    parts = value.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r} is no size like 224 or 224x192")
    return int(parts[0]), int(parts[-1])


@dataclass(frozen=True)
class Samples:
    """Other forms of data than `--data`."""

    text: Path | None
    tokenizer: Path | None
    max_length: int
    images: Path | None
    image_size: tuple[int, int] | None
    image_mean: tuple[float, ...] | None
    image_std: tuple[float, ...] | None
    random_data: bool


def calibration_options(function: Function) -> Function:
    """The options of `Samples`."""
    options = (
        click.option("--text", type=FILE, metavar="FILE", help="Calibration text, one sample a line."),
        click.option(
            "--tokenizer", type=FILE, metavar="FILE", help="The tokenizer.json for --text, or its folder."
        ),
        click.option(
            "--max-length",
            type=click.IntRange(min=2),
            default=128,
            show_default=True,
            help="Tokens of a line of --text that are used.",
        ),
        click.option("--images", type=FILE, metavar="DIR", help="Calibration pictures, in any subfolders."),
        click.option(
            "--image-size", callback=picture_size, metavar="N|HxW", help="What pictures are scaled to."
        ),
        click.option(
            "--image-mean", callback=numbers, metavar="M,M,M", help="Subtracted per channel [default: 0.5]."
        ),
        click.option(
            "--image-std", callback=numbers, metavar="S,S,S", help="Divided by per channel [default: 0.5]."
        ),
        click.option(
            "--random-data",
            is_flag=True,
            help="Calibrate on random inputs, on which heads look different from how they are used.",
        ),
    )
    return stacked(function, options)


def parallel_options(*, hidden: bool = False) -> Callable[[Function], Function]:
    """`--dask`.

    Args:
        hidden: not in `--help`.
    """
    return click.option(
        "--dask",
        metavar="ADDRESS",
        hidden=hidden,
        help="Work on the Dask cluster whose scheduler has this address.",
    )


def read_data(model: Path | LoadedModel | None, samples: Samples, running: Running) -> DataSource | None:
    """The data that the options name.

    Args:
        model: what it is read for, None for many.
        samples: text, pictures or random inputs.
        running: `--data`; provider and seed of random inputs.

    Raises:
        click.UsageError: if options contradict each other.
        UsageError: if the data cannot be read.
    """
    given = [samples.text is not None, samples.images is not None, samples.random_data]
    context = click.get_current_context()
    if [*given, running.data is not None].count(True) > 1:
        raise click.UsageError("give data in one way: --data, --text, --images or --random-data", context)
    if (samples.text is None) != (samples.tokenizer is None):
        raise click.UsageError("--text and --tokenizer belong together", context)
    if any(given) and model is None:
        raise click.UsageError("text and pictures are read for one MODEL; --batch takes --data", context)
    if not any(given) or model is None:
        return running.data
    from onnxheadprune.attention.sites.find import view_of
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.runtime.feeds import graph_inputs
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations import Preprocessing, image_feeds, random_data, text_feeds

    loaded = open_structure(model)
    view = view_of(loaded.proto, loaded.name, loaded.sources)
    if samples.text is not None and samples.tokenizer is not None:
        return text_feeds(samples.text, samples.tokenizer, graph_inputs(view), max_length=samples.max_length)
    if samples.images is not None:
        mean, std = samples.image_mean or (0.5,), samples.image_std or (0.5,)
        return image_feeds(samples.images, graph_inputs(view), Preprocessing(samples.image_size, mean, std))
    err().print("warning: calibrating on random inputs; heads look different on real ones", style="yellow")
    return random_data(view, resolve_provider(running.provider), running.seed)
