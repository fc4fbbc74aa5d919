"""The steps of a job whose model is a folder: each does for all files what it does for one."""

from __future__ import annotations

from pathlib import Path

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.benchmarking.request import BenchRequest
from onnxheadprune.benchmarking.runner import run_benchmark
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.sources import read_data
from onnxheadprune.deploying.clients.all import client_named
from onnxheadprune.deploying.folders.asked import FolderRequest
from onnxheadprune.deploying.folders.opening import FilePair, paired
from onnxheadprune.deploying.folders.prune import prune_folder
from onnxheadprune.deploying.jobs.asked import Document, Given, documented, validating, validation_inputs
from onnxheadprune.deploying.jobs.reading import Job
from onnxheadprune.errors import UsageError, ValidationFailedError
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.runtime.progress import Progress
from onnxheadprune.settings.inputs import Running
from onnxheadprune.validation.proof import prove
from onnxheadprune.workflow.requests import Request

SINGLE = ("score", "recover", "quantize")
"""Steps that take one model."""
FILES = "files"
"""The list of results of a folder, one for each of its files."""


def require_folder_job(job: Job, model: Path) -> None:
    """Check whether all that a job asks for can be done with its model, be that a folder or a file.

    Raises:
        UsageError: if not; the sentence names the key and its line.
    """
    keys = job.keys
    if not model.is_dir():
        if keys.prune.runtime is not None:
            raise job.refused(f"prune.runtime goes with a folder, and model {model} is a file; leave it out")
        return
    if keys.prune.exit is not None:
        raise job.refused(f"prune.exit is for single models, and model {model} is a folder; leave it out")
    for name in SINGLE:
        if getattr(keys, name) is not None:
            raise job.refused(
                f"{name} takes a single model, and model {model} is a folder; leave it out, or name one of its files"
            )


def pruned(job: Job, given: Given, request: Request, progress: Progress) -> Document:
    """The result of `prune` on a folder.

    Raises:
        HeadPruneError: as `prune_folder` does.
    """
    named = job.keys.prune.runtime
    client = None if named is None else client_named(named)
    read, command = None if job.keys.data is None else given.read, given.record.get("command")
    asked = FolderRequest(request, client, read=read, command=None if command is None else str(command))
    return documented(lambda ready: prune_folder(job.at(job.keys.model), asked, progress, ready))


def validated(job: Job, models: tuple[Path, Path], known: str, progress: Progress) -> Document:
    """The results of `validate`, one for each file that was cut.

    Raises:
        ValidationFailedError: if a file is not shown to be exact.
        HeadPruneError: if one cannot be read.
    """
    pairs, running = paired(models[0], [models[1]]), validation_inputs(job)
    differing = [pair for pair in pairs if not pair.is_same]
    found = []
    for number, pair in enumerate(differing, 1):
        progress(f"validating {pair.name}", number, len(differing))
        result = prove(pair.model, pair.others[0], validating(job, _data_of(pair, running)))
        if not (result.passed or (result.verdict == "inconclusive" and job.keys.prune.accept_inconclusive)):
            raise ValidationFailedError(f"{pair.name}: validation {result.verdict}: {result.reason}", result)
        found.append({"file": pair.name, "leads": pair.leads, **result.on(known).to_dict()})
    return {FILES: found, "same": [pair.name for pair in pairs if pair.is_same]}


def measured(models: tuple[Path, Path], request: BenchRequest, progress: Progress) -> Document:
    """The results of `bench`, one for the leading file of each network that was cut.

    Raises:
        HeadPruneError: if a file cannot be read or run.
    """
    found = []
    for pair in paired(models[0], [models[1]], leaders=True):
        if not pair.is_same:
            result = run_benchmark((pair.model, pair.others[0]), request, lambda what: progress(what, 0, 0))
            found.append({"file": pair.name, **result.to_dict()})
    return {FILES: found}


def _data_of(pair: FilePair, running: Running | None) -> DataSource | None:
    """The data, None where it is not for a file."""
    if running is None:
        return None
    try:
        data = read_data(pair.model, running, in_folder=True)
        return None if data is None else calibration_data(data, view_of(pair.model))
    except UsageError:
        return None
