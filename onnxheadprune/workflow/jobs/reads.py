"""Which files and functions of the user each step reads, beside the model."""

from __future__ import annotations

from collections.abc import Mapping

from onnxheadprune.workflow.jobs.asked import heads_of, is_function, source_of
from onnxheadprune.workflow.jobs.keys import DataKeys, RecoverKeys, ScoreKeys, ValidateKeys
from onnxheadprune.workflow.jobs.reading import Job

TOKENIZER = "tokenizer.json"


def reads_of(job: Job, step: str) -> dict[str, str]:
    """Paths from where this process is, and "module:function", by the keys that name them.

    Args:
        job: the job.
        step: the name of one of its steps.
    """
    keys = job.keys
    score, recover = keys.score or ScoreKeys(), keys.recover or RecoverKeys()
    validate = keys.validate or ValidateKeys()
    heads = heads_of(job)
    named: Mapping[str, Mapping[str, str | None]] = {
        "score": {"score.effect": _function(score.effect), **_data(job)},
        "prune": {
            "prune.heads": heads if isinstance(heads, str) and heads.endswith(".json") else None,
            "prune.scores": _path(job, keys.prune.scores),
            "prune.drift": _function(keys.prune.drift),
            **_data(job),
        },
        "recover": {"recover.drift": _function(recover.drift), **_data(job)},
        "validate": {
            "validate.data": None if validate.data is None else source_of(job, validate.data),
            "validate.metric": _function(validate.metric),
            "validate.drift": _function(validate.drift),
        },
    }
    return {key: value for key, value in named.get(step, {}).items() if value is not None}


def _data(job: Job) -> dict[str, str | None]:
    data = job.keys.data or DataKeys()
    tokenizer = None if data.tokenizer is None else job.at(data.tokenizer)
    if tokenizer is not None and tokenizer.is_dir():
        # Of the folder of a tokenizer this one file is read.
        tokenizer /= TOKENIZER
    return {
        "data.path": None if data.path is None else source_of(job, data.path),
        "data.text": _path(job, data.text),
        "data.tokenizer": None if tokenizer is None else str(tokenizer),
        "data.images": _path(job, data.images),
    }


def _path(job: Job, path: str | None) -> str | None:
    return None if path is None else str(job.at(path))


def _function(spec: str | None) -> str | None:
    """What is no function is the name of a measure, and read from nowhere."""
    return spec if spec is not None and is_function(spec) else None
