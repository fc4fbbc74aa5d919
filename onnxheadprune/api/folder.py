"""`prune` of a folder as a function."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from onnxheadprune.api import calls
from onnxheadprune.api.common import Output, Shown, heard
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import PruneFolderKeywords
from onnxheadprune.deploying.clients.all import client_named
from onnxheadprune.deploying.folders import prune as folders
from onnxheadprune.deploying.folders.result import FolderResult
from onnxheadprune.deploying.folders.types import FolderRequest, reader_of
from onnxheadprune.errors import UsageError
from onnxheadprune.workflow.requests import Request, Writing

MOST_WRITTEN = 500
"""Characters of an argument that a model card repeats."""


@keywords_of(calls.PRUNE_FOLDER)
def prune_folder(
    folder: str | os.PathLike[str],
    output: Output = None,
    *,
    progress: Shown = None,
    **settings: Unpack[PruneFolderKeywords],
) -> FolderResult:
    """Remove the same units from every model of an exported folder, prove each, then write the new folder.

        result = ohp.prune_folder("exported", "pruned", heads="0:1,3 5:0-3")
        result = ohp.prune_folder("exported", "pruned", ratio=0.25, data="sentences.txt", runtime="optimum")

    Args:
        folder: as exporters write it; sites have the numbers that `inspect FOLDER` lists.
        output: the new folder, which appears at once or not at all; None looks ahead and writes nothing.
        {settings}
        progress: see `prune`.

    Returns:
        What became of each file, which sites belong together, and the configuration that was updated.

    Raises:
        HeadPruneError: as `prune` does, and where files disagree or the runtime cannot express the cut. Nothing is
            written then.
    """
    given = calls.PRUNE_FOLDER.read(settings, output=output)
    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is no folder; prune takes a single model")
    request = Request.of(given, Writing(output))
    asked = FolderRequest(
        request,
        None if given.runtime is None else client_named(given.runtime),
        given.data_name,
        given.follow_links,
        given.per_layer_config,
        None if given.data is None else reader_of(Path(folder), given),
        _call("prune_folder", folder, output, settings),
        exclude=given.exclude,
    )
    return folders.prune_folder(Path(folder), asked, heard(progress))


def _call(name: str, folder: Output, output: Output, settings: Mapping[str, object]) -> str:
    """A call as Python takes it; arrays and functions are "..."."""
    given = [_written(folder), *(() if output is None else (_written(output),))]
    given += [f"{key}={_written(value)}" for key, value in settings.items() if value is not None]
    return f"onnxheadprune.{name}({', '.join(given)})"


def _written(value: object) -> str:
    """A value as Python takes it, where that is a short text."""
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    plain = isinstance(value, (str, int, float, range, type(None)))
    parts = (*value, *value.values()) if isinstance(value, Mapping) else value
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        plain = all(_written(item) != "..." for item in parts)  # type: ignore[attr-defined]
    return text if plain and len(text := repr(value)) <= MOST_WRITTEN else "..."
