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
    text_field: str | None
    target_field: str | None
    max_samples: int | None
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
        click.option(
            "--text",
            type=FILE,
            metavar="FILE",
            help="Calibration text: one sample a line, or a field of .jsonl or .parquet.",
        ),
        click.option(
            "--text-field",
            metavar="NAME",
            help="The field of .jsonl and .parquet with the text [default: text].",
        ),
        click.option(
            "--target-field",
            metavar="NAME",
            help="The field with what an encoder and a decoder are to give for it [default: the text itself].",
        ),
        click.option(
            "--max-samples",
            type=click.IntRange(min=1),
            metavar="N",
            help="Read the first N samples of --text.",
        ),
        click.option(
            "--tokenizer",
            type=FILE,
            metavar="FILE",
            help="The tokenizer.json for --text, or its folder [default: the one beside MODEL].",
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


def dask_option(function: Function) -> Function:
    """`--dask`."""
    return click.option(
        "--dask",
        metavar="ADDRESS",
        help="Work on the Dask cluster whose scheduler has this address; local starts one here, of --jobs processes.",
    )(function)


def read_data(
    model: Path | LoadedModel | None, samples: Samples, running: Running, *, in_folder: bool = False
) -> DataSource | None:
    """The data that the options name.

    Args:
        model: what it is read for, None for many.
        samples: text, pictures or random inputs.
        running: `--data`; provider and seed of random inputs.
        in_folder: the model is one of several, of which some may use less of it than others.

    Raises:
        click.UsageError: if options contradict each other.
        UsageError: if the data cannot be read.
    """
    given = [samples.text is not None, samples.images is not None, samples.random_data]
    context = click.get_current_context()
    if [*given, running.data is not None].count(True) > 1:
        raise click.UsageError("give data in one way: --data, --text, --images or --random-data", context)
    if samples.text is None and samples.tokenizer is not None:
        raise click.UsageError("--text and --tokenizer belong together", context)
    if any(given) and model is None:
        raise click.UsageError("text and pictures are read for one MODEL", context)
    if running.data is not None and model is not None:
        return data_for(model, running.data, running.provider)
    if not any(given) or model is None:
        return running.data
    from onnxheadprune.attention.sites.find import view_of
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.runtime.feeds import graph_inputs
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations import Preprocessing, image_feeds, random_data

    loaded = open_structure(model)
    if samples.text is not None:
        return _texts(loaded, samples.text, samples, running.provider, in_folder)
    view = view_of(loaded.proto, loaded.name, loaded.sources)
    if samples.images is not None:
        mean, std = samples.image_mean or (0.5,), samples.image_std or (0.5,)
        return image_feeds(samples.images, graph_inputs(view), Preprocessing(samples.image_size, mean, std))
    err().print("warning: calibrating on random inputs; heads look different on real ones", style="yellow")
    return random_data(view, resolve_provider(running.provider), running.seed)


def _texts(loaded: LoadedModel, text: Path, samples: Samples, provider: str, in_folder: bool) -> DataSource:
    """Feeds of `--text`, by the tokenizer that is named or lies beside the model.

    Raises:
        click.UsageError: if there is none, or a target for a model that takes none.
        UsageError: if the text cannot be read, or is not for the model.
    """
    from onnxheadprune.attention.sites.find import view_of
    from onnxheadprune.runtime.feeds import graph_inputs
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations import Reading, beside, text_feeds
    from onnxheadprune.selection.activations.beside import has_decoder, tokenizer_of
    from onnxheadprune.selection.activations.prompts import takes_target

    tokenizer = samples.tokenizer or (None if loaded.path is None else tokenizer_of(loaded.path))
    if tokenizer is None:
        raise click.UsageError(
            "--text and --tokenizer belong together, unless a tokenizer lies beside the model",
            click.get_current_context(),
        )
    inputs = graph_inputs(view_of(loaded.proto, loaded.name, loaded.sources))
    beside_decoder = in_folder and loaded.path is not None and has_decoder(loaded.path)
    if samples.target_field is not None and not takes_target(inputs) and not beside_decoder:
        raise click.UsageError(
            "--target-field is for models with an encoder and a decoder, and this one reads one text only",
            click.get_current_context(),
        )
    return text_feeds(
        text,
        tokenizer,
        inputs,
        max_length=samples.max_length,
        reading=Reading(samples.text_field, samples.target_field, samples.max_samples),
        beside=beside(loaded.path, resolve_provider(provider)),
    )


def data_for(model: Path | LoadedModel, data: str, provider: str) -> DataSource:
    """The user's own data for one model, with what the models beside it make of it.

    Args:
        model: what it is for.
        data: what `--data` names.
        provider: where the models beside it run.

    Raises:
        UsageError: if it cannot be read.
        HeadPruneError: if a model cannot be read or run.
    """
    from onnxheadprune.attention.sites.find import view_of
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.runtime.feeds import graph_inputs
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations import beside, needs_others, supplied

    loaded = open_structure(model)
    if not needs_others(item.name for item in loaded.proto.graph.input):
        return data
    inputs = graph_inputs(view_of(loaded.proto, loaded.name, loaded.sources))
    return supplied(data, inputs, beside(loaded.path, resolve_provider(provider)))
