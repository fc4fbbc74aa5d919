"""Requests for folders, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.sources import data_for, read_data, with_own_tokenizer
from onnxheadprune.deploying.clients.contract import Client, ConfigChange
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.settings.inputs import Running
from onnxheadprune.workflow.requests import Request, Tokens

Data: TypeAlias = "DataSource | Calibration | None"
Reader: TypeAlias = Callable[[LoadedModel], "Data"]
"""Reads the user's data for a model of the folder."""


def reader_of(folder: Path, running: Running, feeds: DataSource | None = None) -> Reader:
    """Read data for the models of a folder, whose own tokenizer is taken for text.

    Args:
        folder: where a tokenizer is looked for if none lies beside the model.
    """
    if feeds is not None:
        return lambda model: data_for(model, feeds, running.provider)
    running = with_own_tokenizer(folder, running)
    return lambda model: read_data(model, running, in_folder=True)


@dataclass(frozen=True)
class FolderTokens:
    """The reduction of the vocabulary of a folder."""

    # what each model with a vocabulary is asked for, by its name
    files: Mapping[str, Tokens] = field(default_factory=dict)
    changes: tuple[ConfigChange, ...] = ()  # fields of configuration files that follow
    # the other files that follow, by their names: of tokenizers
    contents: Mapping[str, bytes] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # files that hold the tokenizer in another form


@dataclass(frozen=True)
class FolderRequest:
    """A request for a folder."""

    # what to do with its models; `writing.output` is the new folder, None looks ahead only
    request: Request = field(default_factory=Request)
    client: Client | None = None  # what it must run in
    # what files with weights are called, `{}` in the place of the model's name; None keeps names
    data_name: str | None = None
    follow_links: bool = False  # read files through links that lead out of the folder
    # let config.json say layer by layer how many KV heads are left, as transformers 5 reads it
    per_layer: bool = False
    read: Reader | None = None  # reads data for one of its models; None without data
    # what repeats the call, for the model card: a command line, or a line of Python
    command: str | None = None
    # the pass that this is of a pipeline, whose later passes may change the models; None outside of one
    step: str | None = None
    exclude: tuple[str, ...] = ()  # names and patterns of models that are left out
