"""Which files and functions of the user each step reads, beside the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from onnxheadprune.deploying.jobs.asked import (
    heads_file,
    is_function,
    kind_if_told,
    running_of,
    validation_inputs,
)
from onnxheadprune.deploying.jobs.keys import ValidateKeys
from onnxheadprune.deploying.jobs.reading import Job
from onnxheadprune.settings.cutting import Recovering, Scoring
from onnxheadprune.settings.inputs import RANDOM, TEXT_FORMATS, Running

VOCABULARY = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt")
BESIDE = ("config.json", "generation_config.json", "*encoder*.onnx", "*embed*.onnx")
"""What text and data may be completed by, beside the model: `data/beside.py`."""
SHELF = "onnx"
"""A folder of models whose vocabulary may lie above it."""


def reads_of(job: Job, step: str) -> dict[str, str]:
    """Paths from where this process is, and "module:function", by the keys that name them.

    Args:
        job: the job.
        step: the name of one of its steps.
    """
    keys = job.keys
    score, recover = keys.score or Scoring(), keys.recover or Recovering()
    validate = keys.validate or ValidateKeys()
    heads, calibration = heads_file(job), _data(job, running_of(job), "data.path")
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


def _data(job: Job, running: Running | None, key: str) -> dict[str, str | None]:
    """Data under its key, and what completes it."""
    if running is None or running.data is None or running.data == RANDOM:
        return {}
    found: dict[str, str | None] = {key: running.data}
    tokenizer = running.tokenizer
    if tokenizer is not None and tokenizer.is_dir():
        found |= _files("data.tokenizer", tokenizer, VOCABULARY)
    elif tokenizer is not None:
        found["data.tokenizer"] = str(tokenizer)
    kind = kind_if_told(running)
    if kind == "images":
        return found
    own = VOCABULARY if kind in TEXT_FORMATS and tokenizer is None else ()
    model = job.at(job.keys.model)
    # A folder of models holds what completes text and data, and all of it is read as the model.
    folders = [] if model.is_dir() else [model.parent]
    if folders and model.parent.name == SHELF:
        folders.append(model.parent.parent)
    for folder in folders:
        beside = _files(f"{folder.name}, beside the model", folder, (*own, *BESIDE))
        found |= {name: path for name, path in beside.items() if Path(path) != model}
    return found


def _files(what: str, folder: Path, patterns: Iterable[str]) -> dict[str, str]:
    """The files of a folder with such names."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return {f"{what}: {path.name}": str(path) for path in paths}


def _path(job: Job, path: Path | None) -> str | None:
    return None if path is None else str(job.at(path))


def _function(spec: str | None) -> str | None:
    """Return what is no function is the name of a measure, and read from nowhere."""
    return spec if spec is not None and is_function(spec) else None
