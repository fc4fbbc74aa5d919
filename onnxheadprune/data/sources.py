"""The user's data in any supported form, as inputs for one model. Only this module detects the form."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from onnxheadprune.errors import UsageError
from onnxheadprune.settings.inputs import RANDOM, TEXT_FORMATS, TEXTS, DataFormat, Running, Samples
from onnxheadprune.settings.setting import declared

if TYPE_CHECKING:
    from onnxheadprune.model.load import ModelLike
    from onnxheadprune.runtime import Provider
    from onnxheadprune.runtime.feeds.data import DataSource

Inputs = TypeVar("Inputs", bound=Running)
VOCABULARY = ("tokenizer.json", "tokenizer_config.json")
BESIDE = ("config.json", "generation_config.json", "*encoder*.onnx*", "*embed*.onnx*")
"""Files beside a model that complete text and data."""


def _kind_of_data(inputs: Running) -> DataFormat | None:
    """The format of the data, detected from its content where it is not specified; None where it is no file."""
    if not isinstance(inputs.data, str) or inputs.data == RANDOM:
        return None
    from onnxheadprune.data import formats

    return inputs.data_format or formats.format_of(inputs.data)


def kind_if_told(inputs: Running) -> DataFormat | None:
    """The kind of data, None also where its content does not show it: reading it raises the error."""
    try:
        return _kind_of_data(inputs)
    except UsageError:
        return None


def files_read(
    model: Path, running: Running, what: str = "the data", by: str = "the tokenizer"
) -> dict[str, str]:
    """The data of a model, and the files that complete it (`beside`), by name: paths and "module:function".

    Args:
        model: a file, or a folder, which holds the files that complete data.
    """
    if running.data is None or running.data == RANDOM:
        return {}
    found, tokenizer = {what: running.data}, running.tokenizer
    if tokenizer is not None and tokenizer.is_dir():
        found |= _files(by, tokenizer, VOCABULARY)
    elif tokenizer is not None:
        found[by] = str(tokenizer)
    kind = kind_if_told(running)
    from onnxheadprune.data.beside import home_of

    if kind == "images" and None in (running.image_mean, running.image_std):
        from onnxheadprune.data.images import NORMALISATION

        for folder in (model,) if model.is_dir() else home_of(model.absolute().parent):
            found |= _files(f"{folder.name}, beside the model", folder, (NORMALISATION,))
    if kind == "images" or model.is_dir():
        return found
    own = VOCABULARY if kind in TEXT_FORMATS and tokenizer is None else ()
    for folder in home_of(model.absolute().parent):
        beside = _files(f"{folder.name}, beside the model", folder, (*own, *BESIDE))
        found |= {name: path for name, path in beside.items() if Path(path) != model.absolute()}
    return found


def _files(what: str, folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {f"{what}: {path.name}": str(path) for path in paths}


def samples_for(kind: DataFormat | None) -> tuple[str, ...]:
    """The settings of `Samples` that have an effect on data of a kind."""
    if kind in TEXT_FORMATS:
        return tuple(TEXTS.split())
    return tuple(name for name in declared(Samples) if name not in TEXTS.split()) if kind == "images" else ()


def with_own_tokenizer(folder: Path, running: Inputs) -> Inputs:
    """The inputs with the tokenizer of a folder for text, or the normalisation for images, where none is given."""
    if _kind_of_data(running) == "images":
        return _normalised((folder,), running)
    if running.tokenizer is not None or _kind_of_data(running) not in TEXT_FORMATS:
        return running
    from onnxheadprune.data.vocabulary import has_tokenizer

    return replace(running, tokenizer=folder) if has_tokenizer(folder) else running


def _normalised(folders: Iterable[Path], running: Inputs) -> Inputs:
    """The inputs with mean and deviation of the first folder that has them, where they are not given."""
    from onnxheadprune.data.images import normalisation_in

    if None not in (running.image_mean, running.image_std):
        return running
    for mean, std in filter(None, map(normalisation_in, folders)):
        return replace(running, image_mean=running.image_mean or mean, image_std=running.image_std or std)
    return running


def data_for(model: ModelLike, data: DataSource, provider: str | Provider, seed: int = 0) -> DataSource:
    """The user's own data for one model, completed by other models of its folder; see `read_data`."""
    if not isinstance(data, (str, os.PathLike)):
        return _in_memory(model, data, provider)
    found = read_data(model, Running(data=os.fspath(data), seed=seed), provider=provider)
    assert found is not None
    return found


def read_data(
    model: ModelLike, running: Running, *, in_folder: bool = False, provider: str | Provider | None = None
) -> DataSource | None:
    """The data named in settings, None without.

    Args:
        in_folder: the model is one of several, some of which may use only a part of the data.
    """
    if running.data is None:
        return None
    provider = provider or running.provider
    kind = _kind_of_data(running)
    _require_effect(running, kind)
    if not isinstance(running.data, str):
        return _in_memory(model, running.data, provider)
    if kind in TEXT_FORMATS:
        return _texts(model, running, kind, provider, in_folder)
    if running.data != RANDOM and kind != "images":
        return _supplied(model, running.data, provider)
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.operators import view_of

    loaded = open_structure(model)
    view = view_of(loaded)
    if kind == "images":
        from onnxheadprune.data.beside import home_of
        from onnxheadprune.data.images import Preprocessing, image_data
        from onnxheadprune.runtime.feeds.inputs import graph_inputs

        folder = running.data
        if loaded.path is not None:
            running = _normalised(home_of(loaded.path.resolve().parent), running)
        mean, std, size = running.image_mean or (0.5,), running.image_std or (0.5,), running.image_size
        how = Preprocessing((size, size) if isinstance(size, int) else size, mean, std)
        return image_data(folder, graph_inputs(view), how)
    from onnxheadprune.data.calibration import random_data

    return random_data(view, _resolved(provider), running.seed)


def _resolved(provider: str | Provider) -> Provider:
    from onnxheadprune.runtime.providers import resolve_provider

    return resolve_provider(provider) if isinstance(provider, str) else provider


def _require_effect(running: Running, kind: DataFormat | None) -> None:
    """Raise a UsageError if a setting is for data of another kind."""
    effective = samples_for(kind)
    for name, item in declared(Samples).items():
        if name not in effective and getattr(running, name) != item.default:
            of = "text" if name in TEXTS.split() else "images"
            what = running.data if isinstance(running.data, str) else "the data in memory"
            raise UsageError(f"--{name.replace('_', '-')} is for {of}, which {what} is not")


def _texts(
    model: ModelLike, given: Running, kind: DataFormat | None, provider: str | Provider, in_folder: bool
) -> DataSource:
    """Samples of text, by the given tokenizer or the one in the model's folder."""
    from onnxheadprune.data.beside import beside, has_decoder, tokenizer_of
    from onnxheadprune.data.lines import Reading
    from onnxheadprune.data.prompts import takes_target
    from onnxheadprune.data.text import text_data
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.operators import view_of
    from onnxheadprune.runtime.feeds.inputs import graph_inputs

    assert given.data is not None
    loaded = open_structure(model)
    tokenizer = given.tokenizer or (None if loaded.path is None else tokenizer_of(loaded.path))
    if tokenizer is None:
        raise UsageError(
            f"{given.data} is text, which requires `tokenizer`, unless a tokenizer lies beside the model"
        )
    inputs = graph_inputs(view_of(loaded))
    beside_decoder = in_folder and loaded.path is not None and has_decoder(loaded.path)
    if given.target_field is not None and not takes_target(inputs) and not beside_decoder:
        raise UsageError(
            "`target_field` is for models with an encoder and a decoder, and this one reads one text only"
        )
    return text_data(
        given.data,
        tokenizer,
        inputs,
        max_length=given.max_length,
        reading=Reading(given.text_field, given.target_field, given.max_samples, kind),
        beside=beside(loaded.path, _resolved(provider)),
        model=loaded,
    )


def _in_memory(model: ModelLike, data: DataSource, provider: str | Provider) -> DataSource:
    """Arrays and batches for one model; what is read already stays unchanged."""
    from onnxheadprune.data.calibration import Calibration

    return data if isinstance(data, Calibration) else _supplied(model, data, provider)


def _supplied(model: ModelLike, data: DataSource, provider: str | Provider) -> DataSource:
    """Arrays for a decoder, completed by other models of its folder; unchanged for any other model."""
    from onnxheadprune.data.beside import beside, needs_others, supplied
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.operators import view_of
    from onnxheadprune.runtime.feeds.inputs import graph_inputs

    loaded = open_structure(model)
    if not needs_others(item.name for item in loaded.proto.graph.input):
        return data
    inputs = graph_inputs(view_of(loaded))
    return supplied(data, inputs, beside(loaded.path, _resolved(provider)))
