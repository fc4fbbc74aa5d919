"""The Python API for folders: what `prune FOLDER` does, as a function that never prints."""

from __future__ import annotations

import os
from pathlib import Path

from onnxheadprune.attention.contract import Contract
from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.feeds import DataSource
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.providers import AUTO
from onnxheadprune.selection.activations.drift import Measure
from onnxheadprune.selection.recovery import Budget
from onnxheadprune.selection.wishes import Wish
from onnxheadprune.workflow.clients.all import client_named
from onnxheadprune.workflow.folders import prune as pruning
from onnxheadprune.workflow.folders.asked import FolderRequest
from onnxheadprune.workflow.folders.result import FolderResult
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing


def prune_folder(
    folder: str | os.PathLike[str],
    heads: HeadSpec | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    client: str | None = None,
    wish: Wish | None = None,
    data: DataSource | None = None,
    compensate: bool | None = None,
    recover: Budget | None = None,
    effect: Measure | None = None,
    provider: str = AUTO,
    seed: int = 0,
    keep_cache_shape: bool = False,
    allow_io_change: bool = False,
    renumber_cache: bool = False,
    validate: bool = True,
    accept_inconclusive: bool = False,
    data_name: str | None = None,
    follow_links: bool = False,
    progress: Progress = silent,
) -> FolderResult:
    """Removes the same heads and other units from every model of an exported folder, proves each, writes a new folder.

    Args:
        folder: as exporters write it.
        heads: a spec of units, by the numbers that `inspect FOLDER` gives the sites: {"0": [1], "ffn.1": range(64),
            "layer.3": "*"}. None with a `wish`.
        output: the new folder, which appears at once or not at all; None looks ahead and writes nothing.
        client: what loads the folder, as `--for` names it: cuts that it cannot express are refused, a wish is met
            within those that it can, and the fields of its configuration follow.
        wish: how many units are to go, in place of `heads`; decided on the most precise file of each network.
        data: the user's inputs, for the networks that they fit; see `feeds.load_data` for the forms.
        compensate: refit what is left; None does so for a `wish` with data.
        recover: how long what is left is trained after that.
        effect: the measure of drift; see `prune`.
        provider: where to run: "auto", "cpu", "cuda" or another execution provider's name.
        seed: of the random inputs.
        keep_cache_shape: keep the shapes of past/present inputs and outputs.
        allow_io_change: also narrow inputs and outputs that are no cache.
        renumber_cache: drop the past and present of attention that goes as a whole, and number the others anew.
        validate: compare each file with its masked reference.
        accept_inconclusive: write even if the heads matter too little for a wrong cut to show.
        data_name: what files with weights are called, `{}` in the place of the model's name; None keeps names.
        follow_links: read files through links that lead out of the folder, as in a hub's cache.
        progress: told what is being done; see `prune`.

    Returns:
        What became of each file, which sites belong together, and the fields that followed.

    Raises:
        HeadPruneError: as `prune` does, and where files disagree or the client cannot express the cut. Nothing is
            written then.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is no folder; prune takes a single model")
    request = Request(
        Choice(heads, wish, compensate, effect, recover),
        Contract(keep_cache_shape, allow_io_change, renumber_cache),
        run=Run(provider, seed, data),
        proving=Proving(validate, accept_inconclusive, "accept_inconclusive=True"),
        writing=Writing(output),
    )
    named = None if client is None else client_named(client)
    asked = FolderRequest(request, named, data_name, follow_links=follow_links)
    return pruning.prune_folder(Path(folder), asked, progress)
