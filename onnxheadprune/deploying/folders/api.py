"""The Python API for folders: what `prune FOLDER` does, as a function that never prints."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path

from onnxheadprune.attention.head_specs import HeadSpec
from onnxheadprune.attention.io_changes import Cache, Contract
from onnxheadprune.choosing.wishes import Wish
from onnxheadprune.data.drift import Measure
from onnxheadprune.data.sources import Data, running_of
from onnxheadprune.deploying.clients.all import client_named
from onnxheadprune.deploying.folders import prune as pruning
from onnxheadprune.deploying.folders.types import FolderRequest, FolderResult, reader_of
from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import AUTO
from onnxheadprune.settings.cutting import Cut
from onnxheadprune.settings.inputs import Inputs, Running
from onnxheadprune.settings.words import documented
from onnxheadprune.settings.writing import Checking, Deploying
from onnxheadprune.training.budget import Budget
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Tokens, Writing

MOST_WRITTEN = 500
"""Characters of an argument that a model card repeats."""


@documented(Cut, Running, Checking, Deploying)
def prune_folder(  # noqa: D417 the decorator documents the settings
    folder: str | os.PathLike[str],
    heads: HeadSpec | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    runtime: str | None = None,
    wish: Wish | None = None,
    data: Data | None = None,
    refit: bool | None = None,
    recover: Budget | None = None,
    effect: Measure | None = None,
    provider: str = AUTO,
    seed: int = 0,
    cache: Cache = "narrow",
    allow_io_change: bool = False,
    vocab: str | os.PathLike[str] | Sequence[int] | None = None,
    vocab_size: int | None = None,
    token_ids: str | None = None,
    token_logits: str | None = None,
    validate: bool = True,
    accept_inconclusive: bool = False,
    data_name: str | None = None,
    follow_links: bool = False,
    progress: Progress = silent,
) -> FolderResult:
    """Remove the same heads and other units from every model of an exported folder, proves each, writes a new folder.

    Args:
        folder: as exporters write it.
        heads: a spec of units, by the numbers that `inspect FOLDER` gives the sites: {"0": [1], "ffn.1": range(64),
            "layer.3": "*"}. None with a `wish`.
        output: the new folder, which appears at once or not at all; None looks ahead and writes nothing.
        wish: how many units are to go, in place of `heads`; decided on the most precise file of each network.
        data: the user's inputs, for the networks that they fit; see `Inputs` for the forms.
        recover: how long what is left is trained after that.
        effect: the measure of drift; see `prune`.
        vocab: the tokens to keep: their ids, or a file with tokens or ids, one a line. The tokenizer follows.
        validate: compare each file with its masked reference.
        {settings}
        progress: told what is being done; see `prune`.

    Returns:
        What became of each file, which sites belong together, and the fields that followed.

    Raises:
        HeadPruneError: as `prune` does, and where files disagree or the client cannot express the cut. Nothing is
            written then.
    """
    command = _call(locals())
    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is no folder; prune takes a single model")
    request = Request(
        Choice(
            heads, wish, refit, effect, recover, tokens=Tokens.of(vocab, vocab_size, token_ids, token_logits)
        ),
        Contract(cache, allow_io_change),
        run=Run(provider, seed),
        proving=Proving(validate, accept_inconclusive, "accept_inconclusive=True"),
        writing=Writing(output),
    )
    named = None if runtime is None else client_named(runtime)
    read = None
    if isinstance(data, (str, os.PathLike, Inputs)):
        read = reader_of(Path(folder), replace(running_of(data, seed), provider=provider))
    elif data is not None:
        read = reader_of(Path(folder), Running(provider=provider), data)
    asked = FolderRequest(request, named, data_name, follow_links=follow_links, read=read, command=command)
    return pruning.prune_folder(Path(folder), asked, progress)


def _call(arguments: Mapping[str, object]) -> str:
    """A call of `prune_folder` as Python takes it, without defaults; arrays and functions are "..."."""
    defaults = {name: item.default for name, item in inspect.signature(prune_folder).parameters.items()}
    given = [f"{name}={_written(value)}" for name, value in arguments.items() if value is not defaults[name]]
    return f"onnxheadprune.prune_folder({', '.join(given)})"


def _written(value: object) -> str:
    """A value as Python takes it, where that is a short text."""
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if is_dataclass(value) and not isinstance(value, type):
        pairs = {item.name: getattr(value, item.name) for item in fields(value) if item.init}
        standard = {
            item.name: item.default if item.default_factory is MISSING else item.default_factory()
            for item in fields(value)
        }
        given = (f"{name}={_written(item)}" for name, item in pairs.items() if item != standard[name])
        return f"onnxheadprune.{type(value).__name__}({', '.join(given)})"
    plain = isinstance(value, (str, int, float, range, type(None)))
    parts = (*value, *value.values()) if isinstance(value, Mapping) else value
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        plain = all(_written(item) != "..." for item in parts)  # type: ignore[attr-defined]
    return text if plain and len(text := repr(value)) <= MOST_WRITTEN else "..."
