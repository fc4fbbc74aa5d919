"""The steps of a job as values: dependencies, outputs and work of each, for a file or a folder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from onnxheadprune.benchmarking.measure import BenchRequest
from onnxheadprune.benchmarking.runner import run_benchmark
from onnxheadprune.choosing.scoring.score import score, scored_kinds
from onnxheadprune.choosing.scoring.scores import store_scores
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.respelled import renumbered
from onnxheadprune.data.sources import kind_if_told, read_data, samples_for
from onnxheadprune.deploying.clients.all import client_named
from onnxheadprune.deploying.folders.opening import FilePair, paired
from onnxheadprune.deploying.folders.prune import prune_folder
from onnxheadprune.deploying.folders.types import FolderRequest
from onnxheadprune.deploying.jobs.asked import (
    Given,
    documented,
    is_function,
    measuring,
    pruning,
    quantizing,
    reads_of,
    recovering,
    running_of,
    source_of,
    units_in,
    validating,
    validation_inputs,
)
from onnxheadprune.deploying.jobs.keys import adapter
from onnxheadprune.deploying.jobs.reading import Job
from onnxheadprune.errors import UsageError, ValidationFailedError
from onnxheadprune.model.documents import Document, finite
from onnxheadprune.model.load import LoadedModel, open_structure
from onnxheadprune.model.spelling import file_name
from onnxheadprune.model.storage.writing import write_json
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.runtime.host import machine
from onnxheadprune.runtime.progress import Progress
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.settings.inputs import Running
from onnxheadprune.validation.claim import read_claim
from onnxheadprune.validation.oracle import prepared
from onnxheadprune.validation.proof import prove
from onnxheadprune.validation.request import ValidationRequest
from onnxheadprune.validation.result import RANDOM_INPUTS
from onnxheadprune.workflow.apart import Distance, Looking, Reference
from onnxheadprune.workflow.pipeline import run_prune
from onnxheadprune.workflow.quantize import quantized_through
from onnxheadprune.workflow.recover import recovery_request
from onnxheadprune.workflow.requests import Request, measure_of

Name: TypeAlias = Literal["score", "prune", "recover", "quantize", "validate", "bench"]
PRUNED, RECOVERED, QUANTIZED = "pruned.onnx", "recovered.onnx", "quantized.onnx"
PRUNED_FOLDER = "pruned"
SCORES, PARTIAL = "score.json", "score.json.partial"
SINGLE = ("score", "recover", "quantize")
"""Steps that take one model."""
FILES = "files"
"""The list of results of a folder, one for each of its files."""


@dataclass(frozen=True)
class Step:
    """One step."""

    name: Name  # as the job calls it
    behind: tuple[Name, ...]  # the steps whose results it takes
    settings: Mapping[str, object]  # what is asked for, JSON-ready
    reads: Mapping[str, str]  # files and functions of the user by what they are called, beside the model
    makes: tuple[str, ...]  # names of files in the job's folder
    # does it; told whether it was interrupted before, with all that it depends on as it is now
    work: Callable[[Progress, bool], None]
    beside: tuple[str, ...] = ()  # names of files that it may leave when it is interrupted


@functools.cache
def _here() -> list[object]:
    """The machine, since latencies of another one do not apply. Cached, as a process stays on one machine."""
    about = machine()
    return [about["processor"], about["cores"], about["cards"]]


@dataclass(frozen=True)
class Workshop:
    """The shared context of a job's steps."""

    job: Job
    given: Given

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.job.at(self.job.keys.output)

    @property
    def model(self) -> Path:
        """The original."""
        return self.job.at(self.job.keys.model)

    @property
    def pruned(self) -> str:
        """The name of the step prune's output: a model or a folder."""
        return PRUNED_FOLDER if self.model.is_dir() else PRUNED

    @property
    def exact(self) -> str:
        """The name of the last model that equals a masked one, before quantization."""
        return self.pruned if self.job.keys.recover is None else RECOVERED

    @property
    def final(self) -> str:
        """The name of the final model."""
        return self.exact if self.job.keys.quantize is None else QUANTIZED

    def keep(self, name: Name, document: Document) -> None:
        """Write the result of a step, with how to repeat it."""
        told = finite({**document, "run": dict(self.given.record)})
        write_json(self.folder / f"{name}.json", told)

    def steps(self) -> Iterator[Step]:
        """The steps that the job names, in their order."""
        keys = self.job.keys
        scored: tuple[Name, ...] = () if keys.score is None else ("score",)
        cut: tuple[Name, ...] = ("prune",) if keys.recover is None else ("prune", "recover")
        if keys.score is not None:
            yield self._step("score", (), (SCORES,), self._score, beside=(PARTIAL,))
        yield self._step("prune", scored, (self.pruned, "prune.json"), self._prune)
        if keys.recover is not None:
            beside = (f"{RECOVERED}.recovery",)
            yield self._step("recover", ("prune",), (RECOVERED, "recover.json"), self._recover, beside=beside)
        if keys.quantize is not None:
            yield self._step("quantize", cut, (QUANTIZED, "quantize.json"), self._quantize)
            cut = (*cut, "quantize")
        if keys.validate is not None:
            yield self._step("validate", cut, ("validate.json",), self._validate)
        if keys.bench is not None:
            yield self._step("bench", cut, ("bench.json",), self._bench)

    def _step(
        self,
        name: Name,
        behind: tuple[Name, ...],
        makes: tuple[str, ...],
        work: Callable[[Progress, bool], None],
        *,
        beside: tuple[str, ...] = (),
    ) -> Step:
        keys = self.job.keys
        plain = adapter().dump_python(keys, mode="json")
        settings: dict[str, object] = {
            "keys": plain[name],
            "provider": keys.provider,
            "seed": keys.seed,
            "data": None if name in ("validate", "bench") else plain["data"],
        }
        if name == "validate" and (running := validation_inputs(self.job)) is not None:
            used = samples_for(kind_if_told(running))
            settings["data"] = {key: str(getattr(running, key)) for key in used} or None
        if name == "bench":
            settings["machine"] = _here()
        if name == "score":
            settings["units"] = sorted(units_in(self.job))
        return Step(name, behind, settings, reads_of(self.job, name), makes, work, beside)

    def _score(self, progress: Progress, _resumed: bool) -> None:
        keys, provider = self.job.keys.score, self.job.keys.provider
        assert keys is not None
        running = running_of(self.job)
        data = read_data(self.model, running)
        scores = score(
            self.model,
            method=keys.method,
            data=data,
            provider=provider,
            effect=measure_of(keys.drift),
            progress=progress,
            units=scored_kinds(units_in(self.job)),
        )
        store_scores(scores, self.folder / SCORES)

    def _prune(self, progress: Progress, _resumed: bool) -> None:
        if self.model.is_dir():
            request = pruning(
                self.job, None, _scores_file(self.job, self.folder), self.folder / PRUNED_FOLDER
            )
            self.keep("prune", _pruned_folder(self.job, self.given, request, progress))
            return
        scores = _scores_file(self.job, self.folder / SCORES)
        request = pruning(self.job, self.given.read(self.model), scores, self.folder / PRUNED)
        self.keep("prune", documented(lambda ready: run_prune(self.model, request, progress, ready)))

    def _recover(self, progress: Progress, resumed: bool) -> None:
        output = self.folder / RECOVERED
        resume = resumed and output.with_name(f"{output.name}.recovery").is_file()
        request = recovering(self.job, self.given.read(self.model), output, resume=resume)
        progress("validating", 0, 0)
        request = recovery_request(self.model, self.folder / PRUNED, request)
        self.keep("recover", documented(lambda ready: run_prune(self.model, request, progress, ready)))

    def _quantize(self, progress: Progress, _resumed: bool) -> None:
        exact = self.folder / self.exact
        request = quantizing(self.job, self._data_for(exact), self.folder / QUANTIZED)
        self.keep("quantize", documented(lambda ready: quantized_through(exact, request, progress, ready)))

    def _data_for(self, exact: Path) -> DataSource | None:
        """The calibration data for a step's model: with fewer tokens, the original's under new ids."""
        original = open_structure(self.model)
        trimmed = prepared(original, open_structure(exact)).trimmed
        data = self.given.read(exact if trimmed is None else self.model)
        return data if data is None or trimmed is None else renumbered(data, original, trimmed)

    def _validate(self, progress: Progress, _resumed: bool) -> None:
        progress("validating", 0, 0)
        if self.model.is_dir():
            models = (self.model, self.folder / self.exact)
            self.keep("validate", _validated_folder(self.job, models, _judged_on(self.job), progress))
            return
        running = validation_inputs(self.job)
        request = validating(self.job, None if running is None else read_data(self.model, running))
        found = prove(self.model, self.folder / self.exact, request)
        accepted = found.passed or (
            found.verdict == "inconclusive" and self.job.keys.prune.accept_inconclusive
        )
        if not accepted:
            raise ValidationFailedError(f"validation {found.verdict}: {found.reason}", found)
        known = _judged_on(self.job)
        told = found.on(known).to_dict()
        if self.final != self.exact and request.data is not None:
            progress("measuring drift", 0, 0)
            original, exact, final = map(
                open_structure, (self.model, self.folder / self.exact, self.folder / self.final)
            )
            told["deployed"] = _deployed_distance(original, exact, final, request).on(known).to_dict()
        self.keep("validate", told)

    def _bench(self, progress: Progress, _resumed: bool) -> None:
        models = (self.model, self.folder / self.final)
        if self.model.is_dir():
            self.keep("bench", _measured_folder(models, measuring(self.job), progress))
            return
        result = run_benchmark(models, measuring(self.job), lambda what: progress(what, 0, 0))
        self.keep("bench", result.to_dict())


def _scores_file(job: Job, made: Path) -> Path | None:
    """The scores for the selection: those of the step, or of a user's file."""
    if job.keys.prune.scores is not None:
        return job.at(job.keys.prune.scores)
    return None if job.keys.score is None else made


def _judged_on(job: Job) -> str:
    """Describe the data for a job's figures, with the refits and trainings that used it."""
    keys = job.keys
    if keys.validate is None or keys.validate.data is None:
        return RANDOM_INPUTS
    source = source_of(job, keys.validate.data)
    name = source if is_function(source) else file_name(source)
    if keys.data is None:
        return f"your data, {name}"
    if keys.data.path is not None and source_of(job, keys.data.path) == source:
        return f"the calibration data, which the {'choice' if keys.recover is None else 'training'} has seen, {name}"
    return f"test data, {name}"


def _deployed_distance(
    original: LoadedModel, exact: LoadedModel, rounded: LoadedModel, request: ValidationRequest
) -> Distance:
    """Drift, accuracy and metric of the final model, run as in a deployment.

    Args:
        exact: the cut in floats, whose record has the remaining inputs and outputs.
    """
    assert request.data is not None
    ready = prepared(original, exact)
    names = (original.name, exact.name)
    claim = read_claim(ready.model, exact.proto, request.heads, names, left=ready.is_changed)
    data = request.data
    if ready.trimmed is not None:
        data = renumbered(data, original, ready.trimmed)
        original = original.changed(ready.trimmed.translated(original))
    view = view_of(original)
    asked = request.provider
    where = asked if isinstance(asked, Provider) else resolve_provider(asked)
    reference = Reference(original, calibration_data(data, view), where)
    looking = Looking(request.effect, request.metric)
    return reference.distance(rounded, looking, claim.planning.io)


def require_folder_job(job: Job, model: Path) -> None:
    """Check whether all that a job asks for can be done with its model, be that a folder or a file."""
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


def _pruned_folder(job: Job, given: Given, request: Request, progress: Progress) -> Document:
    """The result of `prune` on a folder."""
    named = job.keys.prune.runtime
    client = None if named is None else client_named(named)
    read, command = None if job.keys.data is None else given.read, given.record.get("command")
    asked = FolderRequest(request, client, read=read, command=None if command is None else str(command))
    return documented(lambda ready: prune_folder(job.at(job.keys.model), asked, progress, ready))


def _validated_folder(job: Job, models: tuple[Path, Path], known: str, progress: Progress) -> Document:
    """The results of `validate`, one for each file that was cut."""
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


def _measured_folder(models: tuple[Path, Path], request: BenchRequest, progress: Progress) -> Document:
    """The results of `bench`, one for the leading file of each network that was cut."""
    found = []
    for pair in paired(models[0], [models[1]], leaders=True):
        if not pair.is_same:
            result = run_benchmark((pair.model, pair.others[0]), request, lambda what: progress(what, 0, 0))
            found.append({"file": pair.name, **result.to_dict()})
    return {FILES: found}


def _data_of(pair: FilePair, running: Running | None) -> DataSource | None:
    """The data, None where it does not fit a file."""
    if running is None:
        return None
    try:
        data = read_data(pair.model, running, in_folder=True)
        return None if data is None else calibration_data(data, view_of(pair.model))
    except UsageError:
        return None
