"""From the keys of a job to what the steps are asked for: the same requests that commands make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from onnxheadprune.attention.contract import Contract
from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.attention.units import combined
from onnxheadprune.benchmarking.grid import Asked
from onnxheadprune.benchmarking.measure import Quota
from onnxheadprune.benchmarking.request import BenchRequest, Measuring
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime.feeds import DataSource
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.runtime.quantizing import Quantizing
from onnxheadprune.selection import Limits
from onnxheadprune.selection.activations.drift import Measure, named_measure
from onnxheadprune.selection.recovery import Budget, parse_budget
from onnxheadprune.selection.scoring import HeadScores, read_scores
from onnxheadprune.selection.scoring.score import scored_kinds
from onnxheadprune.selection.wishes import Wish
from onnxheadprune.validation import ValidationRequest
from onnxheadprune.validation.metric import load_metric
from onnxheadprune.workflow.clients.all import client_named
from onnxheadprune.workflow.jobs.keys import RecoverKeys
from onnxheadprune.workflow.jobs.reading import Job
from onnxheadprune.workflow.quantize import QuantizeRequest
from onnxheadprune.workflow.requests import Choice, Proving, Request, Run, Writing

Document: TypeAlias = dict[str, Any]
"""A result as JSON-ready data."""
Reader: TypeAlias = Callable[["Path | LoadedModel"], "DataSource | None"]
"""Reads the calibration data for a model, or for one of a folder."""
ACCEPTANCE = "prune.accept_inconclusive: true"
"""What a job file says so that a verdict that shows nothing is enough."""


def documented(work: Callable[[Callable[[Any], None]], object]) -> Document:
    """The result of work as a document, which is made before the work gives its files their names."""
    made: list[Document] = []
    work(lambda result: made.append(result.to_dict()))
    return made[0]


def measure_of(spec: str | None) -> Measure | None:
    """The measure of drift that a key names; None leaves it to the kind of output."""
    return None if spec is None else named_measure(spec)


def source_of(job: Job, spec: str) -> str:
    """Where data comes from: a path of the job, or "module:function" as it is."""
    return spec if is_function(spec) else str(job.at(spec))


def is_function(spec: str) -> bool:
    """Whether a text is "module:function", and no path."""
    module, colon, function = spec.rpartition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), function))


def heads_of(job: Job) -> HeadSpec | None:
    """The heads that are named; a JSON file of them is a path of the job."""
    heads = job.keys.prune.heads
    if isinstance(heads, str) and heads.endswith(".json"):
        return str(job.at(heads))
    return heads


def scores_file(job: Job, made: Path) -> Path | None:
    """The scores that heads are chosen by: those of the step, or a file of the user's own."""
    if job.keys.prune.scores is not None:
        return job.at(job.keys.prune.scores)
    return None if job.keys.score is None else made


def wish_of(job: Job, scores: HeadScores | None) -> Wish | None:
    """How many heads are to go, None where they are named."""
    keys = job.keys.prune
    if all(way is None for way in (keys.ratio, keys.keep, keys.target_speedup, keys.max_drift)):
        return None
    return Wish(
        ratio=keys.ratio,
        keep=keys.keep,
        target_speedup=keys.target_speedup,
        max_drift=keys.max_drift,
        scores=scores,
        limits=Limits(keys.floor, keys.multiple_of, keys.uniform),
        protect=keys.protect,
        units=frozenset(keys.units),
        multiple_of_neurons=keys.neurons_multiple_of,
    )


def pruning(job: Job, data: DataSource | None, scores: Path | None, output: Path) -> Request:
    """What the step prune asks for.

    Args:
        job: the job.
        data: calibration data.
        scores: a file of scores to choose by, None without.
        output: where the model goes.

    Raises:
        UsageError: if the scores cannot be read, or a key has no sense beside the others.
    """
    keys = job.keys.prune
    wish = wish_of(job, None if scores is None else read_scores(scores))
    return Request(
        Choice(
            combined(heads_of(job), {"neurons": keys.neurons}, keys.layers),
            wish,
            keys.compensate,
            measure_of(keys.drift),
            exit=keys.exit,
        ),
        Contract(keys.keep_cache_shape, keys.allow_io_change, keys.renumber_cache),
        keys.fuse,
        Run(job.keys.provider, job.keys.seed, data),
        Proving(accept_inconclusive=keys.accept_inconclusive, acceptance=ACCEPTANCE),
        Writing(output, keys.external_data),
    )


def recovering(job: Job, data: DataSource | None, output: Path, *, resume: bool) -> Request:
    """What the step recover asks for; see `pruning`."""
    keys = job.keys.recover or RecoverKeys()
    choice = Choice(effect=measure_of(keys.drift), recover=_budget(keys.budget), resume=resume)
    prune = job.keys.prune
    return Request(
        choice,
        run=Run(job.keys.provider, job.keys.seed, data),
        proving=Proving(accept_inconclusive=prune.accept_inconclusive, acceptance=ACCEPTANCE),
        writing=Writing(output, prune.external_data),
    )


def _budget(budget: float | str) -> Budget:
    return parse_budget(budget) if isinstance(budget, str) else Budget(epochs=budget)


def quantizing(job: Job, data: DataSource | None, output: Path) -> QuantizeRequest:
    """What the step quantize asks for; see `pruning`.

    Raises:
        UsageError: if a setting has no sense.
    """
    keys = job.keys.quantize
    assert keys is not None
    how = Quantizing(keys.to, keys.per_channel, keys.reduce_range, keys.block_size, keys.exclude)
    how.checked()
    run = Run(job.keys.provider, job.keys.seed, data)
    return QuantizeRequest(how, run, Writing(output, job.keys.prune.external_data))


def validating(job: Job) -> ValidationRequest:
    """What the step validate asks for."""
    keys = job.keys.validate
    assert keys is not None
    data = None if keys.data is None else source_of(job, keys.data)
    return ValidationRequest(
        None, data, job.keys.provider, job.keys.seed, keys.metric, measure_of(keys.drift)
    )


def measuring(job: Job) -> BenchRequest:
    """What the step bench asks for."""
    keys = job.keys.bench
    assert keys is not None
    sizes = Asked(keys.batch, keys.seq, keys.past, keys.dims or {})
    quota = Quota(keys.repeats, keys.time_budget)
    return BenchRequest(
        Measuring(sizes, quota, keys.threads),
        job.keys.provider,
        job.keys.seed,
        cuda_graph=keys.cuda_graph,
        memory=keys.memory,
    )


def require_askable(job: Job, output: Path) -> None:
    """Whether all requests can be made: what a late step would be refused for is said before the first one.

    Args:
        job: the job.
        output: its folder.

    Raises:
        UsageError: if a value has no sense, or a function or a file of scores cannot be read.
        ProviderError: if the provider is named and does not run here.
    """
    keys = job.keys
    if keys.prune.client is not None:
        client_named(keys.prune.client)
    pruning(job, None, None if keys.prune.scores is None else job.at(keys.prune.scores), output)
    if keys.score is not None:
        measure_of(keys.score.drift)
        scored_kinds(keys.prune.units)
    if keys.recover is not None:
        recovering(job, None, output, resume=False)
    if keys.quantize is not None:
        quantizing(job, None, output)
    if keys.validate is not None:
        validating(job)
        if keys.validate.metric is not None:
            load_metric(keys.validate.metric)
    if keys.bench is not None:
        measuring(job)
    if keys.provider.lower() != AUTO:
        resolve_provider(keys.provider)


@dataclass(frozen=True)
class Given:
    """What a job takes from whoever starts it.

    Attributes:
        read: reads the calibration data that the job names, for a model; None where it names none.
        record: how the run can be repeated; a part of every result.
    """

    read: Reader
    record: Mapping[str, object]
