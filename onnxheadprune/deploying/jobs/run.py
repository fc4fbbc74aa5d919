"""`run_job`: runs all steps that are not done already, then checks the limits."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from onnxheadprune.deploying.jobs.gates import disk_bytes, gates_of, limits_of
from onnxheadprune.deploying.jobs.reading import Job, as_key
from onnxheadprune.deploying.jobs.result import JobResult, StepOutcome
from onnxheadprune.deploying.jobs.steps import PRUNED_FOLDER, JobContext, Step, require_folder_job
from onnxheadprune.deploying.ledger import (
    MODEL,
    Digests,
    Entry,
    Ledger,
    digests,
    digests_of,
    inside,
    key_of,
    outputs_in,
)
from onnxheadprune.errors import HeadPruneError, UsageError
from onnxheadprune.model.documents import Document, kind_of, parse_json, read_text
from onnxheadprune.model.storage.claims import (
    FileKind,
    Making,
    Reading,
    check_distinct,
    check_makings,
    named_files,
)
from onnxheadprune.model.storage.stage import locations
from onnxheadprune.model.storage.writing import is_hidden
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.calls import is_function
from onnxheadprune.settings.words import errors_spelled_by, spelled_by
from onnxheadprune.validation.summary import is_interrupted

STATE = "onnxheadprune-job.json"
VERDICT, SUMMARY, PAGE = "verdict.json", "summary.md", "report.html"
TOLD = (VERDICT, SUMMARY, PAGE)
"""Files that every run writes at its end."""
MOST_RESULT = 2**26
"""Bytes of the result of a step."""


def run_job(
    job: Job, record: Mapping[str, object], progress: Progress = silent, others: Sequence[Making] = ()
) -> JobResult:
    """Run the steps of a job that are not done already.

    A step is done if an earlier run has finished it with the same settings, the same bytes of everything that it reads,
    the same results of the steps it depends on and the same versions, and its outputs are unchanged.

    Args:
        others: what else the call writes.
    """
    context = JobContext(job, record)
    with _importable(job.folder):
        steps = list(context.steps())
        makings = _makings(context, steps)
        _require_inputs(context, steps)
        check_makings(others, list)
        check_distinct([*others, *makings], lambda: readings(context, steps))
        context.check()
        model = context.model
        found = digests_of({"model": str(model)}) if model.is_dir() else digests(model)
        ledger = _furnished(context, steps, makings)
        return _Run(context, steps, found, ledger, progress).result()


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make modules in the folder of the job file importable, like those in the working directory."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def _makings(context: JobContext, steps: Sequence[Step]) -> list[Making]:
    """All files that a job writes."""
    kinds: dict[str, FileKind] = {PRUNED_FOLDER: "folder"}
    return [
        Making(
            "the result",
            context.folder / name,
            kind=kinds.get(name, "model" if name.endswith(MODEL) else "file"),
            recorded=True,
        )
        for name in (*_names(steps), *TOLD, STATE)
    ]


def readings(context: JobContext, steps: Iterable[Step]) -> list[Reading]:
    """Every file that a job reads."""
    found = [Reading("the job", context.job.path), Reading("the model", context.model)]
    with contextlib.suppress(OSError):
        places = locations(context.model)
        found += [Reading("the weights of the model,", context.model.parent / place) for place in places]
    named = [item for step in steps for item in step.reads.items()]
    return [*found, *(reading for what, value in named for reading in named_files(what, value))]


def _names(steps: Iterable[Step]) -> list[str]:
    return [name for step in steps for name in (*step.makes, *step.beside)]


def _require_inputs(context: JobContext, steps: Iterable[Step]) -> None:
    """Check whether what a job reads is there, and is none of what it makes."""
    job, folder = context.job, context.folder
    require_folder_job(job, context.model)
    named = {"model": str(context.model)}
    for step in steps:
        named |= step.reads
    for key, path in {key: Path(value) for key, value in named.items() if not is_function(value)}.items():
        if kind_of(path) is None:
            raise job.refused(f"{key} {path} does not exist")
        if path.is_dir() and folder.resolve().is_relative_to(path.resolve()):
            raise job.refused(
                f"output {folder} lies in the folder {path} that {key} reads, which would change with every run;"
                " name a place outside"
            )


def _furnished(context: JobContext, steps: Iterable[Step], makings: Sequence[Making]) -> Ledger:
    """The ledger of the job's folder, which exists and only has files of the job."""
    folder = context.folder
    check_makings([Making("the output", folder, kind="folder")], list)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror or error}") from error
    check_makings(makings, lambda: readings(context, steps))
    ledger = Ledger.read(folder / STATE)
    if not (folder / STATE).exists():
        others = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
        if others:
            raise UsageError(
                f"the output {folder} is a folder with files in it that no job has made ({others[0]}); name one that"
                " is not there yet"
            )
    for name in (*_names(steps), *TOLD):
        if name not in ledger.owned and (folder / name).exists():
            raise UsageError(
                f"{folder / name} is there and no job has made it, so it is not replaced; name another output, or"
                " move it away"
            )
    ledger.owned |= set(TOLD)
    return ledger


class _Run:
    """One run of a job."""

    def __init__(
        self, context: JobContext, steps: Sequence[Step], model: Digests, ledger: Ledger, progress: Progress
    ) -> None:
        self.context, self.steps, self.model = context, steps, model
        self.ledger, self.progress = ledger, progress
        self.keys: dict[str, str] = {}
        self.ran: set[str] = set()
        self.results: dict[str, Document] = {}
        for name in TOLD:
            # What an earlier run has said is not said of this one, should it be interrupted.
            (context.folder / name).unlink(missing_ok=True)

    def result(self) -> JobResult:
        """Run the steps and check the limits."""
        outcomes: list[StepOutcome] = []
        error: HeadPruneError | None = None
        for number, step in enumerate(self.steps, 1):
            if error is not None:
                outcomes.append(StepOutcome(step.name, "not reached"))
                continue
            try:
                with errors_spelled_by(as_key):
                    outcomes.append(self._outcome(step, f"step {number} of {len(self.steps)}, {step.name}"))
            except HeadPruneError as failure:
                error = failure
                outcomes.append(StepOutcome(step.name, "failed"))
        context, job = self.context, self.context.job
        final, limits = context.folder / context.final, limits_of(job.keys.gate)
        gates = [] if error is not None else gates_of(limits, self.results, context.model, final)
        return JobResult(
            job.name,
            str(job.path),
            str(context.folder),
            str(final) if error is None else None,
            tuple(outcomes),
            tuple(gates),
            limits,
            error,
            self.results,
            job.document,
            None if error is not None else (disk_bytes(context.model), disk_bytes(final)),
        )

    def _outcome(self, step: Step, place: str) -> StepOutcome:
        """Do a step, unless it is done."""
        ledger, folder = self.ledger, self.context.folder
        depends = digests_of(step.reads), [self.keys[name] for name in step.behind]
        key = self.keys[step.name] = key_of(step.settings, self.model, *depends)
        earlier = ledger.entries.get(step.name)
        if (
            earlier is not None
            and self.ran.isdisjoint(step.behind)
            and earlier.is_done(key, folder, step.makes)
        ):
            self._keep(step)
            return StepOutcome(step.name, "unchanged", earlier.seconds, earlier.files)
        _clear(folder, step.makes, None if earlier is None else earlier.files)
        ledger.owned |= {*step.makes, *step.beside}
        ledger.note(step.name, Entry(key))
        self.ran.add(step.name)
        started = time.monotonic()
        resumed = earlier is not None and earlier.key == key and earlier.files is None
        self.context.work(
            step.name,
            lambda what, *of: self.progress(f"{place}: {spelled_by(as_key, what)}", *of),
            resumed=resumed,
        )
        self._keep(step)
        if is_interrupted(self.results[step.name]):
            # The next run goes on with the training.
            raise KeyboardInterrupt
        made = outputs_in(folder, step.makes)
        entry = Entry(key, made, round(time.monotonic() - started, 3))
        ledger.owned |= {name for name in made if "/" not in name}
        ledger.note(step.name, entry)
        return StepOutcome(step.name, "done", entry.seconds, made)

    def _keep(self, step: Step) -> None:
        path = self.context.folder / f"{step.name}.json"
        self.results[step.name] = parse_json(read_text(path, "the result", MOST_RESULT))


def _clear(folder: Path, files: Iterable[str], known: Digests | None) -> None:
    """Remove folders that a step has written, since they are rebuilt completely; files are replaced one by one."""
    for path in (folder / name for name in files):
        if not path.is_dir() or path.is_symlink():
            continue
        strange = [name for name in inside(path, path.name) if known is not None and name not in known]
        if strange:
            raise UsageError(
                f"{folder / strange[0]} is no file of the job, and its folder is made anew; move it away first"
            )
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be removed: {error.strerror or error}") from error
