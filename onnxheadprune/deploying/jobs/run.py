"""`run_job`: makes the calls of a job, for a file or a folder, that are not done already, and checks its limits."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from onnxheadprune.benchmarking.runner import run_benchmark
from onnxheadprune.choosing.scoring.score import scored_kinds
from onnxheadprune.choosing.scoring.scores import store_scores
from onnxheadprune.data.respelled import renumbered
from onnxheadprune.data.sources import kind_if_told, read_data, samples_for
from onnxheadprune.deploying.folders.prune import prune_folder
from onnxheadprune.deploying.jobs.gates import disk_bytes, gates_of, limits_of
from onnxheadprune.deploying.jobs.keys import DataKeys
from onnxheadprune.deploying.jobs.reading import Job, as_key
from onnxheadprune.deploying.jobs.result import JobResult, StepOutcome
from onnxheadprune.deploying.ledger import (
    MODEL,
    Digests,
    Entry,
    Ledger,
    Step,
    inside,
    reads_of,
)
from onnxheadprune.deploying.pairs import Pair, joined, paired, to_validate
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.spelling import file_name
from onnxheadprune.errors import HeadPruneError, UsageError, ValidationFailedError
from onnxheadprune.model.documents import Document, finite, kind_of, parse_json, read_text
from onnxheadprune.model.load import ModelLike, open_structure
from onnxheadprune.model.storage.claims import (
    FileKind,
    Making,
    Reading,
    check_distinct,
    check_makings,
    named_files,
)
from onnxheadprune.model.storage.stage import locations
from onnxheadprune.model.storage.writing import is_hidden, write_json
from onnxheadprune.runtime.feeds.data import RANDOM_INPUTS, Basis, DataSource
from onnxheadprune.runtime.progress import Progress, prefixed, silent
from onnxheadprune.runtime.providers import AUTO, machine, resolve_provider
from onnxheadprune.runtime.quantizing import decided
from onnxheadprune.settings.calls import (
    BenchCall,
    PruneCall,
    QuantizeCall,
    RecoverCall,
    ScoreCall,
    ValidateCall,
    is_function,
)
from onnxheadprune.settings.cutting import units_of
from onnxheadprune.settings.inputs import Samples
from onnxheadprune.settings.setting import declared
from onnxheadprune.settings.words import errors_spelled_by, spelled_by
from onnxheadprune.training.checkpoint import beside
from onnxheadprune.validation.measure import load_metric
from onnxheadprune.validation.reference import prepared
from onnxheadprune.validation.summary import is_interrupted
from onnxheadprune.workflow.apart import deployed_distance
from onnxheadprune.workflow.pipeline import run_prune
from onnxheadprune.workflow.quantize import run_quantize
from onnxheadprune.workflow.recover import run_recovery
from onnxheadprune.workflow.requests import Request, measure_of, require_for
from onnxheadprune.workflow.score import run_score

CALLS: Mapping[str, type[Any]] = {
    "score": ScoreCall,
    "prune": PruneCall,
    "recover": RecoverCall,
    "quantize": QuantizeCall,
    "validate": ValidateCall,
    "bench": BenchCall,
}
"""The call of each step, in their order."""
PRUNED, RECOVERED, QUANTIZED = "pruned.onnx", "recovered.onnx", "quantized.onnx"
PRUNED_FOLDER = "pruned"
SCORES = "score.json"
CHECKPOINT = beside(RECOVERED).name
"""The file that a recovery leaves when it is interrupted."""
SINGLE: tuple[str, ...] = ("score", "recover", "quantize")
"""Steps that take one model."""
JUDGING: tuple[str, ...] = ("validate", "bench")
"""Steps that make no model."""


STATE = "onnxheadprune-job.json"
VERDICT, SUMMARY, PAGE = "verdict.json", "summary.md", "report.html"
TOLD = (VERDICT, SUMMARY, PAGE)
"""Files that every run writes at its end."""
MOST_RESULT = 2**26
"""Bytes of the result of a step."""


@functools.cache
def _here() -> list[object]:
    """The machine, since latencies of another one do not apply. Cached, as a process stays on one machine."""
    about = machine()
    return [about["processor"], about["cores"], about["cards"]]


class JobContext:
    """The calls of a job, and the steps that make them."""

    def __init__(self, job: Job, record: Mapping[str, object] | None = None) -> None:
        """Make the calls.

        Args:
            record: how to repeat the run; a part of every result.
        """
        self.job, self.record, keys = job, dict(record or {}), job.keys
        self.folder, self.model = job.at(keys.output), job.at(keys.model)
        # What is pruned; the last model that equals a masked one, before quantization; and the final one.
        self.pruned = PRUNED_FOLDER if self.model.is_dir() else PRUNED
        self.exact = self.pruned if keys.recover is None else RECOVERED
        self.final = self.exact if keys.quantize is None else QUANTIZED
        self.calls = {name: self._call(name) for name in CALLS if getattr(keys, name) is not None}

    def _call(self, name: str) -> Any:
        """The call of a step: its settings in its section of the job, and those that all steps share.

        Paths are as the job has them; see `placed`.
        """
        keys, kind = self.job.keys, CALLS[name]
        data = keys.data or DataKeys()
        given = {item: getattr(keys, item) for item in ("provider", "custom_ops", "seed")}
        given |= {item: getattr(keys.prune, item) for item in ("external_data", "accept_inconclusive")}
        given |= vars(data) | {"data": data.path, "data_format": data.format} | vars(getattr(keys, name))
        if name == "score":
            given["units"] = tuple(sorted(units_of(keys.prune, has_data=data.path is not None)))
        call = kind(**{item: given[item] for item in declared(kind) if item in given})
        if name != "validate":
            return call
        # Of the settings of the calibration data, those for data of its own kind.
        call = replace(call, data_format=None)
        used = samples_for(kind_if_told(self.job.placed(call)))
        return replace(
            call, **{item: of.default for item, of in declared(Samples).items() if item not in used}
        )

    def placed(self, name: str) -> Any:
        """The call of a step, with paths relative to the working directory."""
        return self.job.placed(self.calls[name])

    def check(self) -> None:
        """Check all calls: what a late step would be refused for is said before the first one."""
        keys = self.job.keys
        if not self.model.is_dir():
            open_structure(self.model)
        Request.of(self.placed("prune"))
        if keys.score is not None:
            measure_of(keys.score.drift)
            scored_kinds(self.calls["score"].units, keys.score.method)
        if keys.recover is not None:
            Request.of(self.calls["recover"].as_prune)
        if keys.quantize is not None:
            decided(keys.quantize)
        if keys.validate is not None:
            measure_of(keys.validate.drift)
            if keys.validate.metric is not None:
                load_metric(keys.validate.metric)
        if keys.provider.lower() != AUTO:
            resolve_provider(keys.provider)

    def steps(self) -> Iterator[Step]:
        """The steps that the job names, in their order."""
        models = {"prune": self.pruned, "recover": RECOVERED, "quantize": QUANTIZED}
        behind: tuple[str, ...] = ()
        for name, call in self.calls.items():
            makes = (*((models[name],) if name in models else ()), f"{name}.json")
            settings = vars(call) | ({"machine": _here()} if name == "bench" else {})
            model = None if behind else self.model
            yield Step(name, settings, model, self._reads(name), makes, behind)
            behind = behind if name in JUDGING else (*behind, name)

    def _reads(self, name: str) -> dict[str, str]:
        keys = {"data": "validate.data" if name == "validate" else "data.path", "tokenizer": "data.tokenizer"}
        return reads_of(self.model, self.placed(name), lambda key: keys.get(key, f"{name}.{key}"))

    def work(self, name: str, progress: Progress, *, resumed: bool) -> None:
        """Do a step.

        Args:
            resumed: whether it was interrupted before, with all that it depends on as it is now.
        """
        call = self.placed(name)
        if name == "recover":
            checkpoint = self.folder / CHECKPOINT
            call = replace(call, resume=resumed and checkpoint.is_file())
        _WORK[name](self, call, progress)

    def keep(self, name: str, document: Document) -> None:
        """Write the result of a step, with how to repeat it."""
        write_json(self.folder / f"{name}.json", finite({**spelled_by(as_key, document), "run": self.record}))

    def kept(self, name: str, result: Displayed) -> None:
        """Write the result of a step that makes a model, before the model gets its name."""
        self.keep(name, result.document())

    def pairs(self, made: str, *, leaders: bool = False) -> Sequence[Pair]:
        """The original, or each of its files, with what was made of it."""
        return paired(self.model, [self.folder / made], leaders=leaders)


def _score(context: JobContext, call: ScoreCall, progress: Progress) -> None:
    store_scores(run_score(context.model, call, progress), context.folder / SCORES)


def _prune(context: JobContext, call: PruneCall, progress: Progress) -> None:
    call = replace(call, output=context.folder / context.pruned)
    if "score" in context.calls:
        call = replace(call, scores=context.folder / SCORES)
    ready = partial(context.kept, "prune")
    if context.model.is_dir():
        prune_folder(context.model, call, progress, ready, command=str(context.record["command"]))
    else:
        run_prune(context.model, call, progress, ready)


def _recover(context: JobContext, call: RecoverCall, progress: Progress) -> None:
    call = replace(call, output=context.folder / RECOVERED)
    run_recovery(context.model, context.folder / PRUNED, call, progress, partial(context.kept, "recover"))


def _quantize(context: JobContext, call: QuantizeCall, progress: Progress) -> None:
    exact = context.folder / context.exact
    call = replace(call, output=context.folder / QUANTIZED)
    original = open_structure(context.model)
    trimmed = prepared(original, open_structure(exact)).trimmed

    def translated(_model: ModelLike, call: QuantizeCall) -> DataSource | None:
        """The original's data under the ids of a model with fewer tokens."""
        data = read_data(context.model, call)
        return data if data is None or trimmed is None else renumbered(data, original, trimmed)

    read = read_data if trimmed is None else translated
    run_quantize(exact, call, progress, partial(context.kept, "quantize"), read=read)


def _validate(context: JobContext, call: ValidateCall, progress: Progress) -> None:
    asked, same = to_validate(context.model, context.pairs(context.exact), call)
    known, found = _judged_on(context), []
    for number, (pair, call) in enumerate(asked, 1):
        if pair.file is None:
            progress("validating", 0, 0)
        else:
            progress(f"validating {pair.file}", number, len(asked))
        result = pair.validated(call)
        inconclusive = result.verdict == "inconclusive" and context.job.keys.prune.accept_inconclusive
        if not (result.passed or inconclusive):
            of = "" if pair.file is None else f"{pair.file}: "
            raise ValidationFailedError(f"{of}validation {result.verdict}: {result.reason}", result)
        found.append(result.on(known).document())
    if context.final != context.exact and call.data is not None:
        progress("measuring drift", 0, 0)
        models = context.model, context.folder / context.exact, context.folder / context.final
        found[0]["deployed"] = deployed_distance(*models, call).on(known).to_dict()
    folder = {"same": same} if context.model.is_dir() else {}
    context.keep("validate", joined([pair for pair, _ in asked], found, leads=True) | folder)


def _bench(context: JobContext, call: BenchCall, progress: Progress) -> None:
    pairs = [pair for pair in context.pairs(context.final, leaders=True) if not pair.is_same]
    measured = [
        run_benchmark((pair.model, *pair.others), call, lambda what: progress(what, 0, 0)).document()
        for pair in pairs
    ]
    context.keep("bench", joined(pairs, measured))


def _judged_on(context: JobContext) -> Basis:
    """Describe the data for a job's figures, with the refits and trainings that used it."""
    source = context.placed("validate").data
    if source is None:
        return RANDOM_INPUTS
    name = source if is_function(source) else file_name(source)
    calibration = context.placed("prune").data
    if calibration is None:
        return Basis(measured_on=f"your data, {name}")
    if calibration == source:
        seen = "choice" if context.job.keys.recover is None else "training"
        words = f"the calibration data, which the {seen} has seen, {name}"
        return Basis(measured_on=words, seen_by=seen)
    return Basis(measured_on=f"test data, {name}")


_WORK: Mapping[str, Callable[[JobContext, Any, Progress], None]] = {
    "score": _score,
    "prune": _prune,
    "recover": _recover,
    "quantize": _quantize,
    "validate": _validate,
    "bench": _bench,
}
"""The function of each step, which takes its call."""


def require_folder_job(job: Job, call: PruneCall, model: Path) -> None:
    """Check whether all that a job asks for can be done with its model, be that a folder or a file."""
    try:
        require_for(call, f"model {model}", is_folder=model.is_dir())
    except UsageError as error:
        raise job.refused(spelled_by(as_key, str(error))) from None
    for name in SINGLE if model.is_dir() else ():
        if getattr(job.keys, name) is not None:
            raise job.refused(
                f"{name} takes a single model, and model {model} is a folder; leave it out, or name one of its files"
            )


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
        return _Run(context, steps, _furnished(context, steps, makings), progress).result()


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
    return [name for step in steps for name in _leaves(step)]


def _leaves(step: Step) -> tuple[str, ...]:
    """The files that a step makes, or leaves when it is interrupted."""
    return (*step.makes, CHECKPOINT) if step.name == "recover" else step.makes


def _require_inputs(context: JobContext, steps: Iterable[Step]) -> None:
    """Check whether what a job reads is there, and is none of what it makes."""
    job, folder = context.job, context.folder
    require_folder_job(job, context.calls["prune"], context.model)
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
        self, context: JobContext, steps: Sequence[Step], ledger: Ledger, progress: Progress
    ) -> None:
        self.context, self.steps = context, steps
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
        behind = [self.keys[name] for name in step.behind]
        key = self.keys[step.name] = step.key(*behind)
        earlier = ledger.entries.get(step.name)
        if earlier is not None and self.ran.isdisjoint(step.behind) and step.is_done(earlier, key, folder):
            self._keep(step)
            return StepOutcome(step.name, "unchanged", earlier.seconds, earlier.files)
        _clear(folder, step.makes, None if earlier is None else earlier.files)
        ledger.owned |= set(_leaves(step))
        ledger.note(step.name, Entry(key))
        self.ran.add(step.name)
        started = time.monotonic()
        resumed = earlier is not None and earlier.key == key and earlier.files is None
        self.context.work(
            step.name,
            prefixed(self.progress, f"{place}: ", partial(spelled_by, as_key)),
            resumed=resumed,
        )
        self._keep(step)
        if is_interrupted(self.results[step.name]):
            # The next run goes on with the training.
            raise KeyboardInterrupt
        made, seconds = step.outputs_in(folder), round(time.monotonic() - started, 3)
        # If an input changed while the step ran, nobody knows which version it read: the next run repeats it.
        entry = Entry(key, made if step.key(*behind) == key else None, seconds)
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
        found = (f"{path.name}/{name}" for name in inside(path))
        strange = [name for name in found if known is not None and name not in known]
        if strange:
            raise UsageError(
                f"{folder / strange[0]} is no file of the job, and its folder is made anew; move it away first"
            )
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be removed: {error.strerror or error}") from error
