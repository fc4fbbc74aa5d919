"""The steps of a job, for a file or a folder: each is a call, and the function of a command that takes it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from onnxheadprune.benchmarking.runner import run_benchmark
from onnxheadprune.choosing.scoring.score import scored_kinds
from onnxheadprune.choosing.scoring.scores import store_scores
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.respelled import renumbered
from onnxheadprune.data.sources import files_read, kind_if_told, read_data, samples_for
from onnxheadprune.deploying.folders.agreement import paired
from onnxheadprune.deploying.folders.prune import prune_folder
from onnxheadprune.deploying.jobs.keys import DataKeys
from onnxheadprune.deploying.jobs.reading import Job, as_key
from onnxheadprune.deploying.pairs import Pair, joined, to_validate
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.spelling import file_name
from onnxheadprune.errors import ValidationFailedError
from onnxheadprune.model.documents import Document, finite
from onnxheadprune.model.load import ModelLike, open_structure
from onnxheadprune.model.storage.writing import write_json
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.feeds.data import RANDOM_INPUTS, Basis, DataSource
from onnxheadprune.runtime.progress import Progress
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
    named_by,
)
from onnxheadprune.settings.cutting import units_of
from onnxheadprune.settings.inputs import Running, Samples
from onnxheadprune.settings.setting import declared
from onnxheadprune.settings.words import spelled_by
from onnxheadprune.validation.claim import read_claim
from onnxheadprune.validation.figures import Distance
from onnxheadprune.validation.measure import load_metric
from onnxheadprune.validation.reference import prepared
from onnxheadprune.workflow.apart import Reference
from onnxheadprune.workflow.pipeline import run_prune
from onnxheadprune.workflow.quantize import run_quantize
from onnxheadprune.workflow.recover import run_recovery
from onnxheadprune.workflow.requests import Request, measure_of
from onnxheadprune.workflow.score import run_score

Name: TypeAlias = Literal["score", "prune", "recover", "quantize", "validate", "bench"]
CALLS: Mapping[Name, type[Any]] = {
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
BESIDE: Mapping[Name, tuple[str, ...]] = {
    "score": (f"{SCORES}.partial",),
    "recover": (f"{RECOVERED}.recovery",),
}
"""Names of files that a step may leave when it is interrupted."""
SINGLE: tuple[Name, ...] = ("score", "recover", "quantize")
"""Steps that take one model."""
JUDGING: tuple[Name, ...] = ("validate", "bench")
"""Steps that make no model."""


@dataclass(frozen=True)
class Step:
    """One step."""

    name: Name  # as the job calls it
    behind: tuple[Name, ...]  # the steps whose results it takes
    settings: Mapping[str, object]  # the call that it makes, with paths as the job has them
    reads: Mapping[str, str]  # files and functions of the user by the keys that name them, beside the model
    makes: tuple[str, ...]  # names of files in the job's folder

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of files that it may leave when it is interrupted."""
        return BESIDE.get(self.name, ())


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

    def _call(self, name: Name) -> Any:
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

    def placed(self, name: Name) -> Any:
        """The call of a step, with paths relative to the working directory."""
        return self.job.placed(self.calls[name])

    def check(self) -> None:
        """Check all calls: what a late step would be refused for is said before the first one."""
        keys = self.job.keys
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
        behind: tuple[Name, ...] = ()
        for name, call in self.calls.items():
            makes = (*((models[name],) if name in models else ()), f"{name}.json")
            settings = vars(call) | ({"machine": _here()} if name == "bench" else {})
            yield Step(name, behind, settings, self._reads(name), makes)
            behind = behind if name in JUDGING else (*behind, name)

    def _reads(self, name: Name) -> dict[str, str]:
        data, placed = "validate.data" if name == "validate" else "data.path", self.placed(name)
        keys = {"data": data, "tokenizer": "data.tokenizer"}
        reads = {keys.get(key, f"{name}.{key}"): str(value) for key, value in named_by(placed).items()}
        if isinstance(placed, Running):
            reads |= files_read(self.model, placed, data, keys["tokenizer"])
        return reads

    def work(self, name: Name, progress: Progress, *, resumed: bool) -> None:
        """Do a step.

        Args:
            resumed: whether it was interrupted before, with all that it depends on as it is now.
        """
        call = self.placed(name)
        if name == "recover":
            checkpoint = self.folder / BESIDE[name][0]
            call = replace(call, resume=resumed and checkpoint.is_file())
        getattr(self, f"_{name}")(call, progress)

    def _keep(self, name: Name, document: Document) -> None:
        """Write the result of a step, with how to repeat it."""
        write_json(self.folder / f"{name}.json", finite({**spelled_by(as_key, document), "run": self.record}))

    def _kept(self, name: Name, result: Displayed) -> None:
        """Write the result of a step that makes a model, before the model gets its name."""
        self._keep(name, result.document())

    def _score(self, call: ScoreCall, progress: Progress) -> None:
        store_scores(run_score(self.model, call, progress), self.folder / SCORES)

    def _prune(self, call: PruneCall, progress: Progress) -> None:
        call = replace(call, output=self.folder / self.pruned)
        if "score" in self.calls:
            call = replace(call, scores=self.folder / SCORES)
        ready = partial(self._kept, "prune")
        if self.model.is_dir():
            prune_folder(self.model, call, progress, ready, command=str(self.record["command"]))
        else:
            run_prune(self.model, call, progress, ready)

    def _recover(self, call: RecoverCall, progress: Progress) -> None:
        call = replace(call, output=self.folder / RECOVERED)
        run_recovery(self.model, self.folder / PRUNED, call, progress, partial(self._kept, "recover"))

    def _quantize(self, call: QuantizeCall, progress: Progress) -> None:
        exact = self.folder / self.exact
        call = replace(call, output=self.folder / QUANTIZED)
        original = open_structure(self.model)
        trimmed = prepared(original, open_structure(exact)).trimmed

        def translated(_model: ModelLike, call: QuantizeCall) -> DataSource | None:
            """The original's data under the ids of a model with fewer tokens."""
            data = read_data(self.model, call)
            return data if data is None or trimmed is None else renumbered(data, original, trimmed)

        read = read_data if trimmed is None else translated
        run_quantize(exact, call, progress, partial(self._kept, "quantize"), read=read)

    def _validate(self, call: ValidateCall, progress: Progress) -> None:
        call, pairs, same = to_validate(self.model, self._pairs(self.exact), call)
        known, found = self._judged_on(), []
        for number, pair in enumerate(pairs, 1):
            if pair.file is None:
                progress("validating", 0, 0)
            else:
                progress(f"validating {pair.file}", number, len(pairs))
            result = pair.validated(call)
            inconclusive = result.verdict == "inconclusive" and self.job.keys.prune.accept_inconclusive
            if not (result.passed or inconclusive):
                of = "" if pair.file is None else f"{pair.file}: "
                raise ValidationFailedError(f"{of}validation {result.verdict}: {result.reason}", result)
            found.append(result.on(known).document())
        if self.final != self.exact and call.data is not None:
            progress("measuring drift", 0, 0)
            found[0]["deployed"] = self._deployed_distance(call).on(known).to_dict()
        folder = {"same": same} if self.model.is_dir() else {}
        self._keep("validate", joined(pairs, found, leads=True) | folder)

    def _bench(self, call: BenchCall, progress: Progress) -> None:
        pairs = [pair for pair in self._pairs(self.final, leaders=True) if not pair.is_same]
        measured = [
            run_benchmark((pair.model, *pair.others), call, lambda what: progress(what, 0, 0)).document()
            for pair in pairs
        ]
        self._keep("bench", joined(pairs, measured))

    def _pairs(self, made: str, *, leaders: bool = False) -> Sequence[Pair]:
        """The original, or each of its files, with what was made of it."""
        others = self.folder / made
        if not self.model.is_dir():
            return [Pair(None, self.model, (others,))]
        return paired(self.model, [others], leaders=leaders)

    def _judged_on(self) -> Basis:
        """Describe the data for a job's figures, with the refits and trainings that used it."""
        source = self.placed("validate").data
        if source is None:
            return RANDOM_INPUTS
        name = source if is_function(source) else file_name(source)
        calibration = self.placed("prune").data
        if calibration is None:
            return Basis(measured_on=f"your data, {name}")
        if calibration == source:
            seen = "choice" if self.job.keys.recover is None else "training"
            words = f"the calibration data, which the {seen} has seen, {name}"
            return Basis(measured_on=words, seen_by=seen)
        return Basis(measured_on=f"test data, {name}")

    def _deployed_distance(self, call: ValidateCall) -> Distance:
        """Drift, accuracy and metric of the final model, run as in a deployment."""
        # The cut in floats has the record of the remaining inputs and outputs.
        original, exact, final = map(
            open_structure, (self.model, self.folder / self.exact, self.folder / self.final)
        )
        ready = prepared(original, exact)
        names = (original.name, exact.name)
        claim = read_claim(ready.model, exact.proto, None, names, left=ready.is_changed)
        data: DataSource | None = read_data(self.model, call)
        assert data is not None
        if ready.trimmed is not None:
            data = renumbered(data, original, ready.trimmed)
            original = original.changed(ready.trimmed.translated(original))
        inputs = calibration_data(data, view_of(original))
        reference = Reference(original, inputs, resolve_provider(call.provider))
        return reference.distance(final, measure_of(call.drift), call.metric, claim.planning.io)


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
