"""What a command does with a folder of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.cli.calibrating import read_data
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.writing import Deploying

if TYPE_CHECKING:
    from onnxheadprune.deploying.folders.asked import Data, FolderRequest, Reader
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.workflow.requests import Request


def is_folder(path: Path) -> bool:
    """Return whether a model is given as a folder."""
    return path.is_dir()


def subject_of(path: Path, *, follow_links: bool) -> Path | LoadedModel:
    """Return what stands for one model: its path, or the model read through links.

    Raises:
        HeadPruneError: if links are to be followed and it cannot be read.
    """
    if not follow_links:
        return path
    from onnxheadprune.model.load import open_structure

    return open_structure(path, follow_links=True)


def folder_request(folder: Path, request: Request, given: Deploying, read: Reader | None) -> FolderRequest:
    """Return what is asked for a folder.

    Args:
        folder: the folder.
        request: what is asked for its models.
        given: the options.
        read: reads data for one of the models, None without.
    """
    from onnxheadprune.deploying.clients.all import client_named
    from onnxheadprune.deploying.folders.asked import FolderRequest

    client = None if given.runtime is None else client_named(given.runtime)
    return FolderRequest(request, client, given.data_name, given.follow_links, given.per_layer_config, read)


def reader_of(folder: Path, running: Running) -> Reader | None:
    """Reads the data that the options name for one model of a folder, whose own tokenizer is taken for text.

    Args:
        folder: the folder.
        running: the data, how it becomes inputs, and where models run.
    """
    if running.data is None:
        return None
    from onnxheadprune.data.sources import with_own_tokenizer

    running = with_own_tokenizer(folder, running)

    def read(model: LoadedModel) -> Data:
        return read_data(model, running, in_folder=True)

    return read
