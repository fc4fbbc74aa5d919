"""`prune_batch`: a folder of models, each pruned on its own, whatever happens to the others.

A model is one call of `prune` that an executor works on, in another process, so that one that brings a native library
down is one verdict among others. A record in the output folder holds what is done, and from which bytes.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from onnxheadprune.deploying.ledger import Entry, Ledger, Step, reads_of
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Facts, State, Table, Word
from onnxheadprune.errors import HeadPruneError, UsageError, ValidationFailedError, shortage
from onnxheadprune.model.documents import without_models
from onnxheadprune.model.storage.claims import (
    Making,
    Reading,
    check_distinct,
    check_makings,
    is_forced,
    replacing,
)
from onnxheadprune.model.typed_json import JsonObject, written
from onnxheadprune.settings.calls import PruneCall, named_by
from onnxheadprune.validation.headline import Headline
from onnxheadprune.workflow.executors import Processes, finished
from onnxheadprune.workflow.requests import Request, readings_of

RECORD = "onnxheadprune-batch.json"
BUG = 70
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
    output: str | None = None  # what was written, None if nothing was
    seconds: float = 0.0  # how long it took
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


@dataclass(frozen=True)
class Task:
    """One model: the call of `prune` that makes it."""

    name: str  # the model's path below the folder
    folder: Path
    output: Path
    call: PruneCall
    entry: Entry | None  # of an earlier run, None if there was none
    settings: Mapping[str, object]  # of the call as it was given
    force: bool  # replace an output that this tool has not written, too


def prune_batch(
    folder: str | os.PathLike[str],
    call: PruneCall,
    output: str | os.PathLike[str],
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    progress: Callable[[BatchFile], None] = lambda _: None,
) -> BatchResult:
    """Prune every `*.onnx` of a folder and the folders below it.

    A model that an earlier run pruned by the same call, proved exact, and whose output and everything that was read for
    it (the model, data, files that these name or that complete them) still have the bytes they had then, is skipped.

    Args:
        call: what `prune` is asked for each model.
        output: folder for the pruned models; it gets the same subfolders, and a record of what is done.
        jobs: how many models are worked on at once: the time of a call is divided among them and those that wait.
        executor: where models are worked on, in place of processes here: a Dask cluster, for one. Its workers must
            see the folders under the same paths.
    """
    source, target = Path(folder), Path(output)
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder of models")
    check_makings([Making("the output", target, kind="folder")], list)
    models = _models(source, target)
    _check_outputs(source, target, models, readings_of(call))
    budget = Request.of(call).budget
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {target} cannot be made: {error.strerror or error}") from error
    ledger = _ledger(target / RECORD)
    rooted, places = call, (source, target)
    if executor is not None:
        # Workers elsewhere have a working directory of their own.
        rooted, places = _rooted(call), (source.absolute(), target.absolute())
    lanes = min(jobs, len(models))
    # A cluster gets all at once, and decides itself what waits; here a model that ends early leaves its time to others.
    at_once = lanes if executor is None else len(models)
    files, started = dict[str, BatchFile](), dict[str, float]()

    def tasks() -> Iterator[Task]:
        for place, name in enumerate(models):
            started[name] = time.monotonic()
            mine = replace(rooted, output=places[1] / name)
            if budget is not None and budget.call is not None:
                share = math.ceil((len(models) - (place if executor is None else 0)) / lanes)
                mine = replace(mine, time=f"{budget.part(share).call}s")
            yield Task(name, *places, mine, ledger.entries.get(name), vars(call), is_forced())

    with nullcontext(executor) if executor is not None else Processes(lanes) as pool:
        for place, future in finished(pruned, tasks(), pool, at_once):
            name = models[place]
            try:
                item, entry = future.result()
            except Exception as error:  # each kind of executor has errors of its own for a lost worker
                why = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
                reason = (
                    f"the worker that pruned it was lost, or could not begin ({why}); no output was written"
                )
                item, entry = BatchFile(name, "crashed", BUG, reason), None
            made = None if item.output is None else str(target / name)
            files[name] = replace(item, output=made, seconds=round(time.monotonic() - started[name], 3))
            ledger.note(name, entry)
            progress(files[name])
    return BatchResult(str(source), str(target), tuple(files[name] for name in models))


def _ledger(path: Path) -> Ledger:
    """The finished steps; none where the ledger is damaged."""
    try:
        return Ledger.read(path)
    except UsageError:
        return Ledger(path)


def _rooted(call: PruneCall) -> PruneCall:
    """The call with whole paths."""
    there = {name: value for name, value in named_by(call).items() if Path(value).exists()}
    return replace(call, **{name: type(value)(Path(value).absolute()) for name, value in there.items()})


def pruned(task: Task) -> tuple[BatchFile, Entry | None]:
    """Do a task; with what is written down of it, None where nothing was proven."""
    from onnxheadprune.workflow.pipeline import run_prune

    def found(status: str, error: HeadPruneError | str, exit_code: int) -> tuple[BatchFile, None]:
        return BatchFile(task.name, status, exit_code, str(error)), None

    model, output = task.folder / task.name, task.output / task.name
    try:
        step = Step(task.name, task.settings, model, reads_of(model, task.call), (task.name,))
        key = step.key()
        if step.is_done(task.entry, key, task.output):
            reason = "done and proven before"
            return BatchFile(task.name, "skipped", 0, reason, str(output)), task.entry
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or error
            raise UsageError(f"the folder {output.parent} cannot be made: {why}") from error
        with replacing(task.force):
            result = run_prune(model, task.call, in_folder=True)
        verdict, entry = result.validation, None
        if verdict is not None and verdict.passed and key == step.key():
            entry = Entry(key, step.outputs_in(task.output))
    except ValidationFailedError as error:
        return found("failed", error, error.exit_code)
    except HeadPruneError as error:
        return found("refused", error, error.exit_code)
    except Exception as error:
        if lack := shortage(error):
            return found("refused", lack, HeadPruneError.exit_code)
        return found("bug", f"this is a bug in onnxheadprune ({type(error).__name__}: {error})", BUG)
    item = BatchFile(
        task.name,
        "done",
        0,
        "not validated" if verdict is None else verdict.reason,
        str(output),
        drift=None if verdict is None or verdict.drift is None else verdict.drift.to_dict(),
        headline=result.headline,
        answer=result.facts().answer,
    )
    return item, entry


def _models(source: Path, target: Path) -> list[str]:
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
    if target.exists():
        check_makings([record], list)
    check_distinct([*(Making("the output", target / name) for name in models), record], lambda: inputs)
