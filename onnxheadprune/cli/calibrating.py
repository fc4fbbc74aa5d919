"""Where calibration data comes from on the command line, and how much of it is made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.errors import UsageError
from onnxheadprune.settings.inputs import Inputs, Running

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.feeds.samples import DataSource


def read_data(
    model: Path | LoadedModel, inputs: Inputs, running: Running, *, in_folder: bool = False
) -> DataSource | None:
    """The data that the options name.

    Args:
        model: what it is read for.
        inputs: text, images or random inputs.
        running: `--data`; provider and seed of random inputs.
        in_folder: the model is one of several, of which some may use less of it than others.

    Raises:
        UsageError: if the data cannot be read.
    """
    if running.data is not None:
        return data_for(model, running.data, running.provider)
    if inputs.text is None and inputs.images is None and not inputs.random_data:
        return None
    from onnxheadprune.attention.sites.find import view_of
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.runtime.feeds.inputs import graph_inputs
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations.data import random_data
    from onnxheadprune.selection.activations.images import Preprocessing, image_feeds

    loaded = open_structure(model)
    if inputs.text is not None:
        return _texts(loaded, inputs.text, inputs, running.provider, in_folder)
    view = view_of(loaded)
    if inputs.images is not None:
        mean, std, size = inputs.image_mean or (0.5,), inputs.image_std or (0.5,), inputs.image_size
        how = Preprocessing((size, size) if isinstance(size, int) else size, mean, std)
        return image_feeds(inputs.images, graph_inputs(view), how)
    err().print("warning: calibrating on random inputs; heads look different on real ones", style="yellow")
    return random_data(view, resolve_provider(running.provider), running.seed)


def _texts(loaded: LoadedModel, text: Path, given: Inputs, provider: str, in_folder: bool) -> DataSource:
    """Feeds of `--text`, by the tokenizer that is named or lies beside the model.

    Raises:
        UsageError: if there is none, a target for a model that takes none, or text that is not for the model.
    """
    from onnxheadprune.attention.sites.find import view_of
    from onnxheadprune.runtime.feeds.inputs import graph_inputs
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations.beside import beside, has_decoder, tokenizer_of
    from onnxheadprune.selection.activations.lines import Reading
    from onnxheadprune.selection.activations.prompts import takes_target
    from onnxheadprune.selection.activations.text import text_feeds

    tokenizer = given.tokenizer or (None if loaded.path is None else tokenizer_of(loaded.path))
    if tokenizer is None:
        raise UsageError("--text requires --tokenizer, unless a tokenizer lies beside the model")
    inputs = graph_inputs(view_of(loaded))
    beside_decoder = in_folder and loaded.path is not None and has_decoder(loaded.path)
    if given.target_field is not None and not takes_target(inputs) and not beside_decoder:
        raise UsageError(
            "--target-field is for models with an encoder and a decoder, and this one reads one text only"
        )
    return text_feeds(
        text,
        tokenizer,
        inputs,
        max_length=given.max_length,
        reading=Reading(given.text_field, given.target_field, given.max_samples),
        beside=beside(loaded.path, resolve_provider(provider)),
    )


def data_for(model: Path | LoadedModel, data: DataSource, provider: str) -> DataSource:
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
    from onnxheadprune.runtime.feeds.inputs import graph_inputs
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations.beside import beside
    from onnxheadprune.selection.activations.supplied import needs_others, supplied

    loaded = open_structure(model)
    if not needs_others(item.name for item in loaded.proto.graph.input):
        return data
    inputs = graph_inputs(view_of(loaded))
    return supplied(data, inputs, beside(loaded.path, resolve_provider(provider)))
