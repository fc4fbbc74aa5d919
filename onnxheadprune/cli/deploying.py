"""Options about folders and the programs that load them, and what a command does with a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from onnxheadprune.cli.calibrating import Samples, read_data
from onnxheadprune.cli.options import Running, stacked

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.workflow.folders.asked import Data, FolderRequest, Reader
    from onnxheadprune.workflow.requests import Request

Function = TypeVar("Function", bound=Callable[..., Any])
CLIENTS = (
    "sentence-transformers",
    "optimum",
    "transformers.js",
    "genai",
    "tei",
    "fastembed",
    "openvino",
    "ort",
)
"""As `workflow/clients/all.py` has them: importing that would load onnx for every --help."""


@dataclass(frozen=True)
class Deploying:
    """What the result is for: `--for`, `--data-name`, `--follow-links`."""

    client: str | None
    data_name: str | None
    follow_links: bool


def deploying_options(function: Function) -> Function:
    """The options of `Deploying`."""
    options = (
        click.option(
            "--for",
            "client",
            type=click.Choice(CLIENTS),
            metavar="CLIENT",
            help=f"What loads the folder: {', '.join(CLIENTS[:-1])} or {CLIENTS[-1]}. Cuts that it cannot express are"
            " refused, wishes are met within those that it can, and the fields of its configuration follow.",
        ),
        click.option(
            "--data-name",
            metavar="NAME",
            help='What the file with weights beside OUT is called; "{}" is the name of the model'
            ' ("{}_data", "{}.data") [default: by content, in a folder as it was].',
        ),
        follow_links_option,
    )
    return stacked(function, options)


def follow_links_option(function: Function) -> Function:
    """`--follow-links`."""
    return click.option(
        "--follow-links",
        is_flag=True,
        help="Read files through links that lead out of their folder, as in a hub's cache.",
    )(function)


def is_folder(path: Path) -> bool:
    """Whether a model is given as a folder."""
    return path.is_dir()


def subject_of(path: Path, *, follow_links: bool) -> Path | LoadedModel:
    """What stands for one model: its path, or the model read through links.

    Raises:
        HeadPruneError: if links are to be followed and it cannot be read.
    """
    if not follow_links:
        return path
    from onnxheadprune.model.load import open_structure

    return open_structure(path, follow_links=True)


def folder_request(folder: Path, request: Request, given: Deploying, read: Reader | None) -> FolderRequest:
    """What is asked for a folder.

    Args:
        folder: the folder.
        request: what is asked for its models.
        given: the options.
        read: reads data for one of the models, None without.
    """
    from onnxheadprune.workflow.clients.all import client_named
    from onnxheadprune.workflow.folders.asked import FolderRequest

    client = None if given.client is None else client_named(given.client)
    return FolderRequest(request, client, given.data_name, given.follow_links, read)


def with_own_tokenizer(folder: Path, samples: Samples) -> Samples:
    """The samples with the tokenizer of the folder, where text is given and no tokenizer."""
    from onnxheadprune.selection.activations.vocabulary import has_tokenizer

    if samples.text is not None and samples.tokenizer is None and has_tokenizer(folder):
        return replace(samples, tokenizer=folder)
    return samples


def reader_of(folder: Path, samples: Samples, running: Running) -> Reader | None:
    """Reads the data that the options name for one model of a folder, whose own tokenizer is taken for text.

    Args:
        folder: the folder.
        samples: text, pictures or random inputs.
        running: `--data`; provider and seed of random inputs.
    """
    samples = with_own_tokenizer(folder, samples)
    none = samples.text is None and samples.images is None and not samples.random_data
    if none and running.data is None and samples.tokenizer is None:
        return None

    def read(model: LoadedModel) -> Data:
        return read_data(model, samples, running, in_folder=True)

    return read
