"""From the keys of a job to the requests of its steps, which are those of the commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from onnxheadprune.benchmarking.measure import BenchRequest
from onnxheadprune.choosing.scoring.score import scored_kinds
from onnxheadprune.data.sources import files_read, kind_if_told, samples_for, with_own_tokenizer
from onnxheadprune.deploying.jobs.keys import ValidateKeys
from onnxheadprune.deploying.jobs.reading import Job
from onnxheadprune.model.documents import Document
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.runtime.quantizing import decided
from onnxheadprune.settings.calls import Pruning
from onnxheadprune.settings.cutting import Cut, Recovering, Scoring, units_of
from onnxheadprune.settings.inputs import RANDOM, Running, Samples
from onnxheadprune.settings.setting import declared, part_of
from onnxheadprune.settings.writing import Storing
from onnxheadprune.validation.measure import load_metric
from onnxheadprune.validation.request import ValidationRequest
from onnxheadprune.workflow.quantize import QuantizeRequest
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing, measure_of

Reader: TypeAlias = Callable[["Path | LoadedModel"], "DataSource | None"]
"""Reads the calibration data for a model, or for one of a folder."""


def documented(work: Callable[[Callable[[Any], None]], object]) -> Document:
    """The result of work as a document, which is made before the files get their names."""
    made: list[Document] = []
    work(lambda result: made.append(result.to_dict()))
    return made[0]


def source_of(job: Job, spec: str) -> str:
    """Return the source of data: a path of the job, or "module:function" or "random" unchanged."""
    return spec if is_function(spec) or spec == RANDOM else str(job.at(spec))


def running_of(job: Job) -> Running:
    """The calibration data and provider of a job, as in the commands' requests."""
    running, data = Running(provider=job.keys.provider, seed=job.keys.seed), job.keys.data
    if data is None or data.path is None:
        return running
    samples: dict[str, Any] = {item.name: getattr(data, item.name) for item in fields(Samples)}
    if data.tokenizer is not None:
        samples["tokenizer"] = job.at(data.tokenizer)
    return replace(running, data=source_of(job, data.path), data_format=data.format, **samples)


def validation_inputs(job: Job) -> Running | None:
    """The data of `validate`, with the settings of the calibration data for data of its kind; None without."""
    keys = job.keys.validate
    if keys is None or keys.data is None:
        return None
    running = Running(provider=job.keys.provider, seed=job.keys.seed, data=source_of(job, keys.data))
    names, calibration = samples_for(kind_if_told(running)), running_of(job)
    running, model = (
        replace(running, **{name: getattr(calibration, name) for name in names}),
        job.at(job.keys.model),
    )
    return with_own_tokenizer(model, running) if model.is_dir() else running


def is_function(spec: str) -> bool:
    """Return whether a text is "module:function", and no path."""
    module, colon, function = spec.rpartition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))


def _heads_file(job: Job) -> Path | None:
    heads = job.keys.prune.heads
    return job.at(heads) if isinstance(heads, str) and heads.endswith(".json") else None


def pruning(job: Job, data: DataSource | None, scores: Path | None, output: Path) -> Request:
    """The request of the step prune."""
    keys, named = job.keys.prune, _heads_file(job)
    listed = None if keys.vocab is None else job.at(keys.vocab)
    cut = {name: getattr(keys, name) for name in declared(Cut)}
    cut |= {"scores": scores, "heads": keys.heads if named is None else str(named), "vocab": listed}
    given = Pruning(
        **cut,
        **vars(running_of(job)),
        accept_inconclusive=keys.accept_inconclusive,
    )
    return Request.of(given, Writing(output, part_of(Storing, keys))).on(data)


def recovering(job: Job, data: DataSource | None, output: Path, *, resume: bool) -> Request:
    """The request of the step recover; see `pruning`."""
    keys, prune = job.keys.recover or Recovering(), job.keys.prune
    return Request(
        Choice.training(keys, resume=resume),
        run=Run(job.keys.provider, job.keys.seed, data),
        proving=Proving(accept_inconclusive=prune.accept_inconclusive),
        writing=Writing(output, part_of(Storing, prune)),
    )


def quantizing(job: Job, data: DataSource | None, output: Path) -> QuantizeRequest:
    """The request of the step quantize; see `pruning`."""
    assert job.keys.quantize is not None
    how = job.keys.quantize
    decided(how)
    run = Run(job.keys.provider, job.keys.seed, data)
    return QuantizeRequest(how, run, Writing(output, part_of(Storing, job.keys.prune)))


def validating(job: Job, data: DataSource | None) -> ValidationRequest:
    """The request of the step validate; see `pruning`."""
    keys = job.keys.validate
    assert keys is not None
    return ValidationRequest(
        None,
        data,
        job.keys.provider,
        job.keys.seed,
        None if data is None else keys.metric,
        measure_of(keys.drift),
    )


def measuring(job: Job) -> BenchRequest:
    """The request of the step bench."""
    keys = job.keys.bench
    assert keys is not None
    return BenchRequest(**vars(keys), provider=job.keys.provider, seed=job.keys.seed)


def require_askable(job: Job, output: Path) -> None:
    """Check whether all requests can be made: what a late step would be refused for is said before the first one."""
    keys = job.keys
    pruning(job, None, None if keys.prune.scores is None else job.at(keys.prune.scores), output)
    if keys.score is not None:
        measure_of(keys.score.drift)
        scored_kinds(units_in(job), keys.score.method)
    if keys.recover is not None:
        recovering(job, None, output, resume=False)
    if keys.quantize is not None:
        quantizing(job, None, output)
    if keys.validate is not None:
        measure_of(keys.validate.drift)
        if keys.validate.metric is not None:
            load_metric(keys.validate.metric)
    if keys.bench is not None:
        measuring(job)
    if keys.provider.lower() != AUTO:
        resolve_provider(keys.provider)


@dataclass(frozen=True)
class Given:
    """The context of a job, passed by the command or API call."""

    read: Reader  # reads the calibration data that the job names, for a model; None without data
    record: Mapping[str, object]  # how to repeat the run; a part of every result


def units_in(job: Job) -> tuple[str, ...]:
    """Kinds of units that a job scores and may remove."""
    return units_of(job.keys.prune, has_data=running_of(job).data is not None)


def reads_of(job: Job, step: str) -> dict[str, str]:
    """Paths relative to the working directory, and "module:function", by key."""
    keys = job.keys
    score, recover = keys.score or Scoring(), keys.recover or Recovering()
    validate = keys.validate or ValidateKeys()
    heads, calibration = _heads_file(job), _data(job, running_of(job), "data.path")
    named: Mapping[str, Mapping[str, str | None]] = {
        "score": {"score.drift": _function(score.drift), **calibration},
        "prune": {
            "prune.heads": None if heads is None else str(heads),
            "prune.vocab": _path(job, keys.prune.vocab),
            "prune.scores": _path(job, keys.prune.scores),
            "prune.drift": _function(keys.prune.drift),
            **calibration,
        },
        "recover": {"recover.drift": _function(recover.drift), **calibration},
        "quantize": calibration,
        "validate": {
            **_data(job, validation_inputs(job), "validate.data"),
            "validate.metric": _function(validate.metric),
            "validate.drift": _function(validate.drift),
        },
    }
    return {key: value for key, value in named.get(step, {}).items() if value is not None}


def _data(job: Job, running: Running | None, key: str) -> dict[str, str]:
    return {} if running is None else files_read(job.at(job.keys.model), running, key, "data.tokenizer")


def _path(job: Job, path: Path | None) -> str | None:
    return None if path is None else str(job.at(path))


def _function(spec: str | None) -> str | None:
    """Return a function's name; other values are names of measures, and not read from files."""
    return spec if spec is not None and is_function(spec) else None
