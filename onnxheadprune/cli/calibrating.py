"""Where calibration data comes from on the command line, and how much of it is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxheadprune.cli.options import FILE, stacked

if TYPE_CHECKING:
    from onnxheadprune.runtime.feeds import DataSource
    from onnxheadprune.selection.activations import Calibration

Function = TypeVar("Function", bound=Callable[..., Any])
NAMES = (
    "text",
    "tokenizer",
    "max_length",
    "images",
    "image_size",
    "image_mean",
    "image_std",
    "random_data",
    "jobs",
    "dask",
)


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


def calibration_options(function: Function) -> Function:
    """Other forms of data than `--data`."""
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


def parallel_options(function: Function) -> Function:
    """`--dask`."""
    return click.option(
        "--dask", metavar="ADDRESS", help="Work on the Dask cluster whose scheduler has this address."
    )(function)


def read_data(model: Path | None, settings: dict[str, Any]) -> DataSource | Calibration | None:
    """The data that the options name. Takes them out of the settings.

    Raises:
        click.UsageError: if options contradict each other.
        UsageError: if the data cannot be read.
    """
    chosen = {name: settings.pop(name, None) for name in NAMES if name not in ("jobs", "dask")}
    data = settings.pop("data")
    given = [name for name in ("text", "images", "random_data") if chosen[name]]
    context = click.get_current_context()
    if len(given) + (data is not None) > 1:
        raise click.UsageError("give data in one way: --data, --text, --images or --random-data", context)
    if (chosen["text"] is None) != (chosen["tokenizer"] is None):
        raise click.UsageError("--text and --tokenizer belong together", context)
    if given and model is None:
        raise click.UsageError("text and pictures are read for one MODEL; --batch takes --data", context)
    if not given or model is None:
        return data  # type: ignore[no-any-return]
    from onnxheadprune.attention.sites.find import view_of
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.model.load import load_model
    from onnxheadprune.runtime.feeds import graph_inputs
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations import Preprocessing, image_feeds, random_data, text_feeds

    view = view_of(load_model(model))
    if chosen["random_data"]:
        err().print(
            "warning: calibrating on random inputs; heads look different on real ones", style="yellow"
        )
        return random_data(view, resolve_provider(settings["provider"]), settings.get("seed", 0))
    if chosen["text"]:
        return text_feeds(
            chosen["text"], chosen["tokenizer"], graph_inputs(view), max_length=chosen["max_length"]
        )
    preprocessing = Preprocessing(
        chosen["image_size"], chosen["image_mean"] or (0.5,), chosen["image_std"] or (0.5,)
    )
    return image_feeds(chosen["images"], graph_inputs(view), preprocessing)
