"""`run_job`: runs all steps that are not done already, then checks the limits."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from onnxheadprune import __version__
from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.deploying.batch_worker import Digests, digests, digests_of
from onnxheadprune.deploying.jobs.asked import Given, is_function, require_askable
from onnxheadprune.deploying.jobs.keys import GateKeys
from onnxheadprune.deploying.jobs.reading import Job
from onnxheadprune.deploying.jobs.state import MODEL, STATE, JobResult, State, StepOutcome
from onnxheadprune.deploying.jobs.steps import PRUNED_FOLDER, Step, Workshop, require_folder_job
from onnxheadprune.errors import HeadPruneError, UsageError
from onnxheadprune.model.documents import Document, kind_of, parse_json, read_text
from onnxheadprune.model.load import file_bytes, open_structure
from onnxheadprune.model.storage.claims import FileKind, Making, Reading, check_makings, named_files
from onnxheadprune.model.storage.stage import locations
from onnxheadprune.model.storage.writing import is_hidden
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.runtime.session import versions
from onnxheadprune.validation.result import Drift, drift_gate, strict_gate
from onnxheadprune.validation.summary import files_of, is_interrupted


def _gates_of(asked: GateKeys, results: Mapping[str, Document], model: Path, final: Path) -> list[Gate]:
    """Every limit that a job sets."""
    limits: dict[str, float] = {
        name: limit
        for name, limit in asdict(asked).items()
        if limit is not None and limit is not False  # 0 is a limit
    }
    validations = files_of(results["validate"]) if "validate" in results else []
    found = [
        replace(gate, subject=f"{gate.subject} of {result['file']}") if "file" in result else gate
        for result in validations
        for gate in _of_validation(limits, result)
    ]
    speedups = [_speedup(result) for result in files_of(results.get("bench", {}))]
    known = [speedup for speedup in speedups if speedup is not None]
    measured = {
        "min_speedup": min(known) if known and len(known) == len(speedups) else None,
        "max_file_bytes": _disk_bytes(final),
        "max_size_ratio": _disk_bytes(final) / _disk_bytes(model),
        "max_operations_ratio": _operations(results.get("recover", results.get("prune", {}))),
    }
    found += [
        _gate(name, final.name, limits[name], value) for name, value in measured.items() if name in limits
    ]
    order = list(limits)
    return sorted(found, key=lambda gate: order.index(gate.name))


def _of_validation(limits: Mapping[str, float], result: Document) -> Iterator[Gate]:
    deployed: Document | None = result.get("deployed")
    if "strict" in limits:
        yield strict_gate(result["pruned"], result["exact"])
    if "max_drift" in limits:
        yield _drift(limits["max_drift"], result, deployed)
    for kind, subject in (("accuracy", "output"), ("metric", "name")):
        measured: Document = (deployed or result)[kind] or {}
        before, after = measured.get("original"), measured.get("pruned")
        drop = None if before is None or after is None else before - after
        values = {f"min_{kind}": after, f"max_{kind}": after, f"max_{kind}_drop": drop}
        for name, value in values.items():
            if name in limits:
                yield _gate(name, measured.get(subject, kind), limits[name], value)


def _drift(limit: float, result: Document, deployed: Document | None) -> Gate:
    """The drift of the final model; of a quantized model run as in a deployment."""
    if deployed is not None:
        value = deployed["drift"]
        return Gate("max_drift", "the quantized model", limit, value, value <= limit, deployed["drift_unit"])
    drift = result["drift"]
    return drift_gate(None if drift is None else Drift(**drift), limit)


def _gate(name: str, subject: str, limit: float, value: float | None) -> Gate:
    """A number against its limit; a number that could not be measured breaks it."""
    kept = value is not None and (value >= limit if name.startswith("min_") else value <= limit)
    return Gate(name, subject, limit, value, kept)


def _speedup(result: Document) -> float | None:
    found = result.get("guaranteed", {}).get("1")
    return None if found is None else float(found)


def _disk_bytes(model: Path) -> int:
    """Return the size of a model on the disk, or of all models of a folder."""
    if model.is_dir():
        return sum(_disk_bytes(path) for path in sorted(model.rglob("*.onnx")))
    taken = file_bytes(open_structure(model))
    assert taken is not None
    return taken


def _operations(result: Document) -> float | None:
    """The remaining share of operations; of a folder, for the leading files of its networks."""
    counted = [item.get("operations") for item in files_of(result) if item.get("leads", True)]
    if not counted or any(not item or not item["before"] for item in counted):
        return None
    after, before = (sum(item[when] for item in counted if item) for when in ("after", "before"))
    return float(after / before)


VERDICT, SUMMARY, PAGE = "verdict.json", "summary.md", "report.html"
TOLD = (VERDICT, SUMMARY, PAGE)
"""Files that every run writes at its end."""
MOST_RESULT = 2**26
"""Bytes of the result of a step."""


def run_job(job: Job, given: Given, progress: Progress = silent) -> JobResult:
    """Run the steps of a job that are not done already.

    A step is done if an earlier run has finished it with the same settings, the same bytes of everything that it reads,
    the same results of the steps it depends on and the same versions, and its outputs are unchanged.
    """
    shop = Workshop(job, given)
    with _importable(job.folder):
        _require_inputs(shop)
        require_askable(job, shop.folder)
        model = digests_of({"model": str(shop.model)}) if shop.model.is_dir() else digests(str(shop.model))
        state = _furnished(shop)
        return _Run(shop, model, state, progress).result()


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Make modules in the folder of the job file importable, like those in the working directory."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def makings(job: Job) -> list[Making]:
    """All files that a job writes."""
    shop = Workshop(job, Given(lambda _: None, {}))
    return [
        Making("the result", shop.folder / name, kind=_kind(name), recorded=True)
        for name in (*_names(list(shop.steps())), *TOLD, STATE)
    ]


def _kind(name: str) -> FileKind:
    if name == PRUNED_FOLDER:
        return "folder"
    return "model" if name.endswith(MODEL) else "file"


def readings(job: Job) -> list[Reading]:
    """Every file that a job reads."""
    shop = Workshop(job, Given(lambda _: None, {}))
    found = [Reading("the job", job.path), Reading("the model", shop.model)]
    with contextlib.suppress(OSError):
        found += [
            Reading("the weights of the model,", shop.model.parent / location)
            for location in locations(shop.model)
        ]
    with _importable(job.folder):
        for step in shop.steps():
            for what, value in step.reads.items():
                found += named_files(what, value)
    return found


def _names(steps: list[Step]) -> list[str]:
    return [name for step in steps for name in (*step.makes, *step.beside)]


def _require_inputs(shop: Workshop) -> None:
    """Check whether what a job reads is there, and is none of what it makes."""
    job = shop.job
    require_folder_job(job, shop.model)
    named = {"model": str(shop.model)}
    for step in shop.steps():
        named |= step.reads
    for key, value in named.items():
        if is_function(value):
            continue
        path = Path(value)
        if kind_of(path) is None:
            raise job.refused(f"{key} {path} does not exist")
        if path.is_dir() and shop.folder.resolve().is_relative_to(path.resolve()):
            raise job.refused(
                f"output {shop.folder} lies in the folder {path} that {key} reads, which would change with every run;"
                " name a place outside"
            )


def _furnished(shop: Workshop) -> State:
    """The state of the job's folder, which exists and only has files of the job."""
    folder = shop.folder
    check_makings([Making("the output", folder, kind="folder")], list)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror or error}") from error
    names = [*_names(list(shop.steps())), *TOLD]
    check_makings(makings(shop.job), lambda: readings(shop.job))
    state = State.read(folder)
    if not (folder / STATE).exists():
        others = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
        if others:
            raise UsageError(
                f"the output {folder} is a folder with files in it that no job has made ({others[0]}); name one that"
                " is not there yet"
            )
    for name in names:
        if name not in state.owned and (folder / name).exists():
            raise UsageError(
                f"{folder / name} is there and no job has made it, so it is not replaced; name another output, or"
                " move it away"
            )
    state.owned |= set(TOLD)
    return state


class _Run:
    """One run of a job."""

    def __init__(self, shop: Workshop, model: Digests, state: State, progress: Progress) -> None:
        self.shop, self.model, self.state, self.progress = shop, model, state, progress
        self.versions = {"onnxheadprune": __version__, **versions()}
        self.keys: dict[str, str] = {}
        self.ran: set[str] = set()
        self._place = ""
        self.results: dict[str, Document] = {}
        for name in TOLD:
            # What an earlier run has said is not said of this one, should it be interrupted.
            (shop.folder / name).unlink(missing_ok=True)

    def result(self) -> JobResult:
        """Run the steps and check the limits."""
        outcomes: list[StepOutcome] = []
        error: HeadPruneError | None = None
        steps = list(self.shop.steps())
        for number, step in enumerate(steps, 1):
            self._place = f"step {number} of {len(steps)}, {step.name}"
            if error is not None:
                outcomes.append(StepOutcome(step.name, "not reached"))
                continue
            try:
                outcomes.append(self._outcome(step))
            except HeadPruneError as failure:
                error = failure
                outcomes.append(StepOutcome(step.name, "failed"))
        shop, keys = self.shop, self.shop.job.keys
        final = shop.folder / shop.final
        gates = []
        if error is None and keys.gate is not None:
            gates = _gates_of(keys.gate, self.results, shop.model, final)
        limits = {} if keys.gate is None else asdict(keys.gate)
        return JobResult(
            shop.job.name,
            str(shop.job.path),
            str(shop.folder),
            str(final) if error is None else None,
            tuple(outcomes),
            tuple(gates),
            {name: limit for name, limit in limits.items() if limit is not None and limit is not False},
            error,
            self.results,
            shop.job.document,
            None if error is not None else (_disk_bytes(shop.model), _disk_bytes(final)),
        )

    def _outcome(self, step: Step) -> StepOutcome:
        """Do a step, unless it is done."""
        state = self.state
        key = self.keys[step.name] = _digest_of(
            [
                step.settings,
                self.model,
                digests_of(step.reads),
                [self.keys[name] for name in step.behind],
                self.versions,
            ]
        )
        if self.ran.isdisjoint(step.behind) and state.is_done(step.name, key, step.makes):
            entry = state.entries[step.name]
            self._keep(step)
            return StepOutcome(step.name, "unchanged", entry.seconds, entry.files)
        resumed = state.is_begun(step.name, key)
        state.clear(step.name, step.makes)
        state.begin(step.name, key, (*step.makes, *step.beside))
        self.ran.add(step.name)
        started = time.monotonic()
        step.work(self._told, resumed)
        self._keep(step)
        if is_interrupted(self.results[step.name]):
            # The next run goes on with the training.
            raise KeyboardInterrupt
        entry = state.finish(step.name, step.makes, round(time.monotonic() - started, 3))
        return StepOutcome(step.name, "done", entry.seconds, entry.files)

    def _told(self, what: str, done: int, of: int) -> None:
        self.progress(f"{self._place}: {what}", done, of)

    def _keep(self, step: Step) -> None:
        path = self.shop.folder / f"{step.name}.json"
        self.results[step.name] = parse_json(read_text(path, "the result", MOST_RESULT))


def _digest_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
