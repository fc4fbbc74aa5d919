"""A process that prunes one model after the other for a batch, and is replaced when it dies."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import signal
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from onnxheadprune.errors import HeadPruneError, UsageError, ValidationFailedError, settings_spelled, shortage
from onnxheadprune.model.documents import regular_file
from onnxheadprune.model.storage.claims import named_files, replacing
from onnxheadprune.runtime.custom_ops import custom_operators
from onnxheadprune.settings.words import option
from onnxheadprune.workflow.executors import end_with_parent
from onnxheadprune.workflow.requests import Request

if TYPE_CHECKING:
    from collections.abc import Mapping

    # A worker has to start fast, and numpy is only needed once there is a model.
    from onnxheadprune.runtime.feeds.samples import DataSource
    from onnxheadprune.validation.headline import Headline
    from onnxheadprune.validation.result import Drift

BUG = 70
Digests: TypeAlias = dict[str, str]
"""SHA-256 of files by their names."""


class Reader(Protocol):
    """Reads the data for one model, in the process that prunes it."""

    def __call__(self, model: Path) -> DataSource | None:
        """Return the data for one model."""

    def files(self, model: Path) -> Mapping[str, str]:
        """Return what it reads for the model: paths and "module:function", by what these are called."""


@dataclass(frozen=True)
class Proof:
    """Digests of the files that a model was proven with, and the reason of its verdict."""

    input: Digests  # digests of the model's files, and of all else that was read for it
    output: Digests  # digests of the pruned model's files
    reason: str


@dataclass(frozen=True)
class Job:
    """One model to prune."""

    model: str
    request: Request  # what to do with it, but for the output
    output: str
    proof: Proof | None  # of an earlier run, None if there was none
    read: Reader | None = None  # reads the data for the model, None where the request brings it
    force: bool = False  # replace an output that this tool has not written, too
    custom_ops: Path | None = None  # the library of custom operators that sessions load


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job; the first three are as in `BatchFile`.

    Attributes:
        status, exit_code, reason: the verdict.
    """

    status: str
    exit_code: int
    reason: str
    seconds: float = 0.0  # how long it took
    # how far the pruned model lies from the original, None where nothing was measured
    drift: Drift | None = None
    proof: Proof | None = None  # None where nothing was proven
    headline: Headline | None = None  # of a model that was pruned now, None of others
    answer: str = ""  # what its result says in a sentence, "" where it has none


def timed(job: Job) -> Outcome:
    """The outcome of a job, done in this process, with the seconds that it took. Its time begins now."""
    started, budget = time.monotonic(), job.request.choice.recover
    if budget is not None:
        choice = replace(job.request.choice, recover=budget.begun())
        job = replace(job, request=replace(job.request, choice=choice))
    return replace(_done(job), seconds=round(time.monotonic() - started, 3))


class Worker:
    """Runs jobs in a process of its own, which is started when there is one."""

    def __init__(self) -> None:
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    def run(self, job: Job) -> Outcome:
        """The outcome of a job; the death of the process is one."""
        started = time.monotonic()
        try:
            if self._process is None or not self._process.is_alive():
                self._start()
            assert self._pipe is not None
            self._pipe.send(job)
            outcome: Outcome = self._pipe.recv()
        except (EOFError, OSError):
            code = self._died()
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            reason = f"the process that pruned it died ({how}); no output was written"
            outcome = Outcome("crashed", BUG, reason)
        return replace(outcome, seconds=round(time.monotonic() - started, 3))

    def _start(self) -> None:
        # A fresh interpreter: forking one with threads is asking for deadlocks.
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        process = context.Process(target=_serve, args=(other,), daemon=True)
        process.start()
        self._process = process
        other.close()

    def _died(self) -> int | None:
        code = None
        if self._process is not None:
            self._process.join(5)
            code = self._process.exitcode
        self.close()
        return code

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.terminate()
            self._process.join()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


def _serve(pipe: Connection) -> None:
    end_with_parent()
    # An interrupt is for the parent, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(_done(pipe.recv()))


@settings_spelled(option)
def _done(job: Job) -> Outcome:
    try:
        if job.proof is not None and _proven(job):
            return Outcome("skipped", 0, "done and proven before", proof=job.proof)
        return _pruned(job)
    except ValidationFailedError as error:
        return Outcome("failed", error.exit_code, str(error))
    except HeadPruneError as error:
        return Outcome("refused", error.exit_code, str(error))
    except Exception as error:
        if lack := shortage(error):
            return Outcome("refused", HeadPruneError.exit_code, lack)
        return Outcome("bug", BUG, f"this is a bug in onnxheadprune ({type(error).__name__}: {error})")


def _pruned(job: Job) -> Outcome:
    from onnxheadprune.workflow.pipeline import run_prune

    output = Path(job.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {output.parent} cannot be made: {error.strerror or error}") from error
    before = _read_by(job)
    request = replace(job.request, writing=replace(job.request.writing, output=job.output))
    if job.read is not None:
        request = replace(request, run=replace(request.run, data=job.read(Path(job.model))))
    with replacing(job.force), custom_operators(job.custom_ops):
        result = run_prune(job.model, request)
    verdict = result.validation
    if verdict is None:
        return Outcome("done", 0, "not validated", headline=result.headline, answer=result.facts().answer)
    proof = None
    if verdict.passed and before == _read_by(job):
        proof = Proof(before, digests(job.output), verdict.reason)
    return Outcome(
        "done",
        0,
        verdict.reason,
        drift=verdict.drift,
        proof=proof,
        headline=result.headline,
        answer=result.facts().answer,
    )


def _proven(job: Job) -> bool:
    """Return whether the input and the output are, byte for byte, those of the earlier run."""
    assert job.proof is not None
    if not Path(job.output).is_file():
        return False
    try:
        return job.proof.input == _read_by(job) and job.proof.output == digests(job.output)
    except HeadPruneError:
        return False


def _read_by(job: Job) -> Digests:
    return digests(job.model) | ({} if job.read is None else digests_of(job.read.files(Path(job.model))))


def digests(model: str) -> Digests:
    """SHA-256 of a model's files by their names."""
    from onnxheadprune.model.load import open_structure

    loaded = open_structure(model)
    return {path.name: file_digest(path, "the model") for path in (Path(model), *loaded.data_files)}


def digests_of(named: Mapping[str, object]) -> Digests:
    """SHA-256 of files by their names.

    Args:
        named: what users call them ("data.path"), and a file, a folder, or "module:function", for which the file of the
            module stands; what names none of these counts for nothing.
    """
    found: Digests = {}
    for what, value in named.items():
        for reading in named_files(what, value):
            root = reading.path
            files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
            for path in files:
                name = path.relative_to(root) if path != root else path.name
                found[f"{what}:{name}"] = file_digest(path, what)
    return found


def file_digest(path: Path, what: str) -> str:
    """SHA-256 of a file that somebody named."""
    try:
        with regular_file(path, what).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror or error}") from error
