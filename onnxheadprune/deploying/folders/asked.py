"""A request for a folder, as a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.sources import Data as SourceOfData
from onnxheadprune.data.sources import data_for, read_data, with_own_tokenizer
from onnxheadprune.deploying.clients.contract import Client, ConfigChange
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.settings.inputs import Running
from onnxheadprune.workflow.requests import Request, Tokens

if TYPE_CHECKING:
    from onnxheadprune.workflow.vocabulary.otherwise import Respelling

Data: TypeAlias = "DataSource | Calibration | None"
Reader: TypeAlias = Callable[[LoadedModel], "Data"]
"""Reads the user's data for a model of the folder."""


def reader_of(folder: Path, running: Running, feeds: SourceOfData | None = None) -> Reader:
    """Read data for the models of a folder, whose own tokenizer is taken for text.

    Args:
        folder: where a tokenizer is looked for if none lies beside the model.
        running: the place of the data, and where models run.
        feeds: inputs in memory, in place of it.
    """
    if feeds is not None:
        return lambda model: data_for(model, feeds, running.provider)
    running = with_own_tokenizer(folder, running)
    return lambda model: read_data(model, running, in_folder=True)


@dataclass(frozen=True)
class FolderTokens:
    """What becomes of a folder whose models keep some tokens.

    Attributes:
        files: what each model with a vocabulary is asked for, by its name.
        changes: fields of configuration files that follow.
        contents: the other files that follow, by their names: of tokenizers.
        warnings: what the user should know.
        respelling: the tokenizer that the models share, None without.
    """

    files: Mapping[str, Tokens] = field(default_factory=dict)
    changes: tuple[ConfigChange, ...] = ()
    contents: Mapping[str, bytes] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    respelling: Respelling | None = None


@dataclass(frozen=True)
class FolderRequest:
    """A request for a folder.

    Attributes:
        request: what to do with its models; `writing.output` is the new folder, None looks ahead only.
        client: what it must run in.
        data_name: what files with weights are called, `{}` in the place of the model's name; None keeps names.
        follow_links: read files through links that lead out of the folder.
        per_layer: let config.json say layer by layer how many KV heads are left, as transformers 5 reads it.
        read: reads data for one of its models; None without data.
        command: what repeats the call, for the model card: a command line, or a line of Python.
    """

    request: Request = field(default_factory=Request)
    client: Client | None = None
    data_name: str | None = None
    follow_links: bool = False
    per_layer: bool = False
    read: Reader | None = None
    command: str | None = None
