"""`prune_batch`: a folder of models, each pruned on its own, whatever happens to the others.

A model is pruned in another process, so that one that brings a native library down is one verdict among
others. A record in the output folder says what is done, from which bytes, and with which result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

from onnxheadprune import __version__
from onnxheadprune.deploying.batch_worker import BUG, Job, Outcome, Proof, Reader, Worker, digests_of, timed
from onnxheadprune.errors import UsageError
from onnxheadprune.model.display import Displayed
from onnxheadprune.model.documents import read_text, without_models
from onnxheadprune.model.facts import Facts, State, Table, Word
from onnxheadprune.model.storage.claims import (
    Making,
    Reading,
    check_distinct,
    check_makings,
    is_forced,
    named_files,
)
from onnxheadprune.model.storage.writing import write_text
from onnxheadprune.model.typed_json import JsonObject, Name, json_text, parsed, written
from onnxheadprune.runtime.custom_ops import custom_ops
from onnxheadprune.training.budget import Budget
from onnxheadprune.validation.headline import Headline
from onnxheadprune.workflow.requests import Request

RECORD = "onnxheadprune-batch.json"
FORMAT: Literal[1] = 1
_STATES: Mapping[str, State] = {
    "done": "good",
    "skipped": "",
    "refused": "doubtful",
    "failed": "bad",
    "crashed": "bad",
    "bug": "bad",
}
_ORDER = ("done", "skipped", "refused", "failed", "crashed", "bug")


@dataclass(frozen=True)
class BatchFile(JsonObject):
    """The result for one model."""

    file: str  # its path below the folder
    # "done", "skipped" (done and proven by an earlier run), "refused" (not prunable, not readable, or the
    # heads do not fit), "failed" (not shown to be exact), "crashed" (the process died) or "bug"
    status: str
    exit_code: int  # what `prune` alone would have given
    reason: str  # the verdict, or why there is no output
    output: str | None  # what was written, None if nothing was
    seconds: float  # how long it took
    # how far the pruned model lies from the original, as `validate` says it; None where nothing was measured
    drift: Mapping[str, object] | None = None
    # whether it is exact, good enough and accepted; None of a model that was not pruned now
    headline: Headline | None = None
    answer: str = ""  # what its result says in a sentence, "" of a model that was not pruned now

    @property
    def word(self) -> Word:
        """The status, in the state of the headline where there is one."""
        return Word(self.status, _STATES[self.status] if self.headline is None else self.headline.state)


@dataclass(frozen=True)
class BatchResult(Displayed):
    """The verdicts of a batch, in order of the models' names."""

    folder: str
    output: str
    files: tuple[BatchFile, ...]

    @property
    @written()
    def counts(self) -> dict[str, int]:
        """Number of models per status."""
        found = Counter(item.status for item in self.files)
        return {status: found[status] for status in _ORDER if found[status]}

    @property
    @written()
    def exit_code(self) -> int:
        """0 if every model is done, 1 if one was not shown to be exact, else 3."""
        codes = [item.exit_code for item in self.files]
        if not any(codes):
            return 0
        return 1 if 1 in codes else 3

    def facts(self) -> Facts:
        """Counts of models by status, and the result of each."""
        rows = tuple((item.file, item.word, item.answer or item.reason) for item in self.files)
        columns = ("model", "verdict", "result")
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items())
        table = Table(columns, rows, wraps=columns[2:])
        return Facts(self.output, counts, "open" if not self.exit_code else "doubtful", (table,))


def prune_batch(
    folder: str | os.PathLike[str],
    request: Request,
    output: str | os.PathLike[str],
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    read: Reader | None = None,
    progress: Callable[[BatchFile], None] | None = None,
) -> BatchResult:
    """Prune every `*.onnx` of a folder and the folders below it.

    A model that an earlier run pruned for the same request, proved exact, and whose output and everything that was
    read for it (the model, data, files that these name or that complete them) still have the bytes they had then, is
    skipped.

    Args:
        output: folder for the pruned models; it gets the same subfolders, and a record of what is done.
        jobs: how many models are worked on at once: the time of a call is divided among them and those that wait.
        executor: where models are worked on, in place of processes here: a Dask cluster, for one. Its workers must
            see the folders under the same paths.
        read: reads the data for one model, in place of the data of the request; it travels to other processes.
    """
    source, target = Path(folder), Path(output)
    models = _models(source, target)
    others = [reading for what, value in _named(request).items() for reading in named_files(what, value)]
    _check_outputs(source, target, models, others)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {target} cannot be made: {error.strerror or error}") from error
    book = _Book(target / RECORD, _digest(request, read))
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in models:
        waiting.put(name)
    files: dict[str, BatchFile] = {}
    told = threading.Lock()

    def settle(name: str, outcome: Outcome) -> None:
        item = BatchFile(
            name,
            outcome.status,
            outcome.exit_code,
            outcome.reason,
            str(target / name) if outcome.status in ("done", "skipped") else None,
            outcome.seconds,
            None if outcome.drift is None else outcome.drift.to_dict(),
            outcome.headline,
            outcome.answer,
        )
        with told:
            files[name] = item
            book.note(name, outcome.proof)
            if progress is not None:
                progress(item)

    def job_of(name: str, budget: Budget | None) -> Job:
        mine = dataclasses.replace(request, choice=dataclasses.replace(request.choice, recover=budget))
        return Job(str(source / name), mine, str(target / name), book.proof(name), read, force, custom_ops())

    budget, force = request.choice.recover, is_forced()

    def lane(worker: Worker, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                return
            turns = math.ceil((waiting.qsize() + 1) / lanes)
            outcome = worker.run(job_of(name, None if budget is None else budget.turn(turns)))
            if not stopping.is_set():
                settle(name, outcome)

    lanes = min(jobs, len(models))
    if executor is None:
        _in_lanes(lane, lanes)
    else:
        part = None if budget is None else budget.part(math.ceil(len(models) / lanes))
        tasks = [job_of(name, part) for name in models]
        _on_cluster(executor, tasks, lambda index, item: settle(models[index], item))
    return BatchResult(str(source), str(target), tuple(files[name] for name in models))


def _in_lanes(lane: Callable[[Worker, threading.Event], None], count: int) -> None:
    """Runs `lane` in threads with a process each; an interrupt ends the processes."""
    workers = [Worker() for _ in range(count)]
    errors: list[BaseException] = []
    stopping = threading.Event()

    def guarded(worker: Worker) -> None:
        try:
            lane(worker, stopping)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(worker,), daemon=True) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    finally:
        stopping.set()
        for worker in workers:
            worker.close()
    if errors:
        raise errors[0]


def _on_cluster(executor: Executor, jobs: Sequence[Job], settle: Callable[[int, Outcome], None]) -> None:
    """Runs jobs wherever the executor does; a worker that dies is the verdict of its model."""
    waiting = {executor.submit(timed, _rooted(job)): index for index, job in enumerate(jobs)}
    try:
        for future in as_completed(waiting):
            try:
                outcome = future.result()
            except Exception as error:  # what a cluster says about a lost worker is of its own kinds
                why = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
                reason = (
                    f"the worker that pruned it was lost, or could not begin ({why}); no output was written"
                )
                outcome = Outcome("crashed", BUG, reason)
            settle(waiting[future], outcome)
    finally:
        for future in waiting:
            future.cancel()


def _rooted(job: Job) -> Job:
    """The job with paths that do not hang on the working directory, which a worker has of its own."""
    run, choice, tokens = job.request.run, job.request.choice, job.request.choice.tokens
    kept = None if tokens is None else dataclasses.replace(tokens, keep=_absolute(tokens.keep))
    choice = dataclasses.replace(choice, heads=_absolute(choice.heads), tokens=kept)
    request = dataclasses.replace(
        job.request, run=dataclasses.replace(run, data=_absolute(run.data)), choice=choice
    )
    model, output = (str(Path(path).absolute()) for path in (job.model, job.output))
    return dataclasses.replace(job, model=model, request=request, output=output)


def _absolute(value: Any) -> Any:
    return Path(value).absolute() if isinstance(value, (str, os.PathLike)) and Path(value).exists() else value


def _models(source: Path, target: Path) -> list[str]:
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder of models")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is not a folder")
    if target.exists() and target.samefile(source):
        raise UsageError(f"the output folder {target} is the folder of the models; name another one")
    # The models of an earlier run are none to prune; an output folder around the source holds the source's own.
    made = target if _is_below(target, source) else None
    found = [
        path
        for path in source.rglob("*.onnx")
        if not path.name.startswith(".")
        and not path.is_dir()
        and not (made is not None and _is_below(path, made))
    ]
    if not found:
        raise UsageError(without_models(Path(source)))
    return sorted(path.relative_to(source).as_posix() for path in found)


def _is_below(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link to itself; that it cannot be read is its verdict
        return False


def _check_outputs(source: Path, target: Path, models: Sequence[str], others: Sequence[Reading]) -> None:
    """Check that no output is an input or another output. What is wrong with one place alone, its verdict says."""
    # Models are read by other processes only. Weights need no look into them: what this tool did not make is
    # not replaced by a worker.
    inputs = [*(Reading("the model", source / name) for name in models), *others]
    record = Making("the record", target / RECORD, recorded=True)
    check_makings([Making("the output", target, kind="folder")], list)
    if target.exists():
        check_makings([record], list)
    check_distinct([*(Making("the output", target / name) for name in models), record], lambda: inputs)


def _named(request: Request) -> dict[str, object]:
    """Values that may name files that a request reads, by what they are called; what completes data is not here."""
    choice = request.choice
    return {
        "the data": request.run.data,
        "the heads": choice.heads,
        "the tokens": None if choice.tokens is None else choice.tokens.keep,
        "the measure": _content(choice.effect),
    }


def _digest(request: Request, read: Reader | None) -> str:
    asked = [FORMAT, __version__, _content(request), _content(read), digests_of(_named(request))]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _content(value: object) -> object:
    """All that a value holds, JSON-ready: what `repr` shows is cut off to be read by people."""
    if dataclasses.is_dataclass(value):
        held = (field.name for field in dataclasses.fields(value) if field.compare)
        return {name: _content(getattr(value, name)) for name in held}
    if isinstance(value, Mapping):
        return {str(key): _content(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [_content(item) for item in value]
    if isinstance(value, FunctionType):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, (str, int, float, type(None))):
        return value
    array = getattr(value, "tobytes", None)
    return repr(value) if array is None else hashlib.sha256(array()).hexdigest()


@dataclass(frozen=True)
class Proven:
    """The recorded proof of a model, and the request it was made for."""

    request: Name  # its digest
    proof: Proof


@dataclass(frozen=True)
class Record(JsonObject):
    """The finished and proven models of a batch, stored in the output folder."""

    format: Literal[1] = FORMAT
    models: dict[Name, Proven] = field(default_factory=dict)


class _Book:
    """The record of one run, read and written."""

    def __init__(self, path: Path, request: str) -> None:
        self.path, self.request = path, request
        try:
            self.models: dict[str, Proven] = parsed(Record, read_text(path, "the record")).models
        except (UsageError, ValueError):
            # No record, or a damaged one: everything is done again.
            self.models = {}

    def proof(self, name: str) -> Proof | None:
        """Return what an earlier run with the same request proved of a model."""
        entry = self.models.get(name)
        return entry.proof if entry is not None and entry.request == self.request else None

    def note(self, name: str, proof: Proof | None) -> None:
        """Write down what is proven of a model, or that nothing is."""
        self.models.pop(name, None)
        if proof is not None:
            self.models[name] = Proven(self.request, proof)
        document = Record(models=dict(sorted(self.models.items()))).to_dict()
        write_text(self.path, json_text(document, indent=1))
