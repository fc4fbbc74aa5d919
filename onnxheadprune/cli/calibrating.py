"""Where calibration data comes from on the command line, and how much of it is made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.errors import UsageError
from onnxheadprune.settings.inputs import RANDOM, TEXTS, DataFormat, Inputs, Running, Samples
from onnxheadprune.settings.setting import declared

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.feeds.samples import DataSource

_OF_TEXT: tuple[DataFormat, ...] = ("text", "jsonl", "parquet")


def _format_of(inputs: Inputs) -> DataFormat | None:
    """Return what the data is, by its content where it is not said; None where it is no file.

    Raises:
        UsageError: if the content does not tell.
    """
    if inputs.data is None or inputs.data == RANDOM:
        return None
    from onnxheadprune.selection.activations import formats

    return inputs.data_format or formats.format_of(inputs.data)


def is_text(inputs: Inputs) -> bool:
    """Return whether the data is text, which takes a tokenizer."""
    return _format_of(inputs) in _OF_TEXT


def read_data(model: Path | LoadedModel, running: Running, *, in_folder: bool = False) -> DataSource | None:
    """The data that the options name, None without.

    Args:
        model: what it is read for.
        running: the data, how it becomes inputs, and where models run.
        in_folder: the model is one of several, of which some may use less of it than others.

    Raises:
        UsageError: if the data cannot be read, or an option is for data of another kind.
    """
    if running.data is None:
        return None
    kind = _format_of(running)
    _require_effect(running, kind)
    if kind in _OF_TEXT:
        return _texts(model, running, kind, in_folder)
    if running.data != RANDOM and kind != "images":
        return data_for(model, running.data, running.provider)
    from onnxheadprune.attention.sites.find import view_of
    from onnxheadprune.model.load import open_structure

    loaded = open_structure(model)
    view = view_of(loaded)
    if kind == "images":
        from onnxheadprune.runtime.feeds.inputs import graph_inputs
        from onnxheadprune.selection.activations.images import Preprocessing, image_feeds

        mean, std, size = running.image_mean or (0.5,), running.image_std or (0.5,), running.image_size
        how = Preprocessing((size, size) if isinstance(size, int) else size, mean, std)
        return image_feeds(running.data, graph_inputs(view), how)
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations.data import random_data

    err().print("warning: calibrating on random inputs; heads look different on real ones", style="yellow")
    return random_data(view, resolve_provider(running.provider), running.seed)


@dataclass(frozen=True)
class DataReader:
    """Reads the data that options name, in whatever process a model is pruned."""

    running: Running

    @classmethod
    def rooted(cls, running: Running) -> DataReader:
        """The same from any working directory."""
        data, tokenizer = running.data, running.tokenizer
        if data is not None and data != RANDOM and Path(data).exists():
            data = str(Path(data).absolute())
        return cls(replace(running, data=data, tokenizer=None if tokenizer is None else tokenizer.absolute()))

    def __call__(self, model: Path) -> DataSource | None:
        """The data for one model."""
        return read_data(model, self.running, in_folder=True)


def _require_effect(running: Running, kind: DataFormat | None) -> None:
    """Raise a UsageError if an option is for data of another kind."""
    used = "text" if kind in _OF_TEXT else kind
    for name, item in declared(Samples).items():
        of = "text" if name in TEXTS.split() else "images"
        if used != of and getattr(running, name) != item.default:
            raise UsageError(f"--{name.replace('_', '-')} is for {of}, which {running.data} is not")


def _texts(model: Path | LoadedModel, given: Running, kind: DataFormat | None, in_folder: bool) -> DataSource:
    """Feeds of text, by the tokenizer that is named or lies beside the model.

    Raises:
        UsageError: if there is none, a target for a model that takes none, or text that is not for the model.
    """
    from onnxheadprune.attention.sites.find import view_of
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.runtime.feeds.inputs import graph_inputs
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.activations.beside import beside, has_decoder, tokenizer_of
    from onnxheadprune.selection.activations.lines import Reading
    from onnxheadprune.selection.activations.prompts import takes_target
    from onnxheadprune.selection.activations.text import text_feeds

    assert given.data is not None
    loaded = open_structure(model)
    tokenizer = given.tokenizer or (None if loaded.path is None else tokenizer_of(loaded.path))
    if tokenizer is None:
        raise UsageError(
            f"{given.data} is text, which requires --tokenizer, unless a tokenizer lies beside the model"
        )
    inputs = graph_inputs(view_of(loaded))
    beside_decoder = in_folder and loaded.path is not None and has_decoder(loaded.path)
    if given.target_field is not None and not takes_target(inputs) and not beside_decoder:
        raise UsageError(
            "--target-field is for models with an encoder and a decoder, and this one reads one text only"
        )
    return text_feeds(
        given.data,
        tokenizer,
        inputs,
        max_length=given.max_length,
        reading=Reading(given.text_field, given.target_field, given.max_samples, kind),
        beside=beside(loaded.path, resolve_provider(given.provider)),
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
