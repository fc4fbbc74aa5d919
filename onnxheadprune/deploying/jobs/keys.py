"""The keys of a job, as types: the JSON schema, the checks and the rules are made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from onnxheadprune.settings.cutting import AMOUNT, TOKENS, UNITS, Cut, Drift, Recovering, Scoring
from onnxheadprune.settings.inputs import DATA_HELP, CustomOps, Data, Format, Provider, Samples, Seed
from onnxheadprune.settings.measuring import Benching, Metric, Rounding
from onnxheadprune.settings.setting import (
    NAMED,
    Count,
    Declared,
    Factor,
    NotNegative,
    Setting,
    Shares,
    Text,
    WithUnit,
    declared,
    excludes,
    requires,
)
from onnxheadprune.settings.writing import AcceptInconclusive, Runtime, Storing

IDENTIFIER = "urn:onnxheadprune:job:1"


@dataclass(frozen=True, kw_only=True)
class DataKeys(Samples):
    """Calibration data of score, prune, recover and quantize."""

    path: Data = None
    format: Format = None


@dataclass(frozen=True, kw_only=True)
class PruneKeys(Storing, Cut):
    """What to remove; the result is proven exact before it is written."""

    accept_inconclusive: AcceptInconclusive = False
    runtime: Runtime = None


@dataclass(frozen=True, kw_only=True)
class ValidateKeys:
    """Comparison of the result with the masked original, and its drift."""

    data: Annotated[Text | None, Setting(DATA_HELP)] = None
    metric: Metric = None
    drift: Drift = None


@dataclass(frozen=True, kw_only=True)
class GateKeys:
    """Limits: if one is broken, the job ends with exit code 1."""

    max_drift: Annotated[
        NotNegative | None,
        Setting(
            "Drift from the original, as validate measures it.",
            rules=(requires("validate"), excludes("quantize", unless="validate.data")),
        ),
    ] = None
    min_accuracy: Annotated[
        Annotated[float, Shares(ge=0, le=1)] | None,
        Setting("Accuracy on the labels of validate.data.", rules=(requires("validate.data"),)),
    ] = None
    max_accuracy_drop: Annotated[
        Annotated[float, Shares(ge=0)] | None,
        Setting(
            "How much accuracy may be lost; 0.01 is one point of a hundred.",
            rules=(requires("validate.data"),),
        ),
    ] = None
    min_metric: Annotated[
        float | None,
        Setting("The least that validate.metric may return.", rules=(requires("validate.metric"),)),
    ] = None
    max_metric: Annotated[
        float | None,
        Setting("The most that validate.metric may return.", rules=(requires("validate.metric"),)),
    ] = None
    max_metric_drop: Annotated[
        NotNegative | None,
        Setting(
            "How much less than with the original validate.metric may return.",
            rules=(requires("validate.metric"),),
        ),
    ] = None
    min_speedup: Annotated[
        Factor | None,
        Setting("Speed-up over the original, at every size of bench.", rules=(requires("bench"),)),
    ] = None
    max_file_bytes: Annotated[Count | None, Setting("Bytes of the model's files.")] = None
    max_size_ratio: Annotated[
        Annotated[float, Shares(gt=0)] | None,
        Setting("Bytes of the model's files over those of the original."),
    ] = None
    max_operations_ratio: Annotated[
        Annotated[float, Shares(gt=0)] | None, Setting("Operations of one run over those of the original.")
    ] = None
    strict: Annotated[
        bool,
        Setting(
            "The result is proven by its graph, and not only equal on inputs that were tried.",
            rules=(requires("validate"),),
        ),
    ] = False


def _in(section: str, names: str) -> str:
    return " ".join(f"{section}.{name}" for name in names.split())


_AMOUNT = _in("prune", AMOUNT)


@dataclass(frozen=True, kw_only=True)
class JobKeys:
    """A job: score, prune, recover, quantize, validate, bench, gate. Unnamed steps are skipped."""

    model: Annotated[Path, Setting("The exported model.")]
    output: Annotated[Path, Setting("The folder for everything that the job makes.")]
    prune: Annotated[
        PruneKeys,
        Setting("What to remove.", rules=(requires(f"{_in('prune', f'{UNITS} exit {TOKENS}')} {_AMOUNT}"),)),
    ]
    version: Annotated[Literal[1], Setting("Version of this format.")] = 1
    name: Annotated[Text | None, Setting("Name of the job in reports; that of its file if not given.")] = None
    provider: Provider = "auto"
    custom_ops: CustomOps = None
    seed: Seed = 0
    data: Annotated[
        DataKeys | None,
        Setting("Calibration data.", rules=(requires("data.path"),)),
    ] = None
    score: Annotated[
        Scoring | None,
        Setting(
            "First score heads by importance.",
            rules=(requires(_AMOUNT), excludes("prune.scores prune.method")),
        ),
    ] = None
    recover: Annotated[
        Recovering | None, Setting("Train the remaining weights.", rules=(requires("data"),))
    ] = None
    quantize: Annotated[Rounding | None, Setting("Quantize the result.")] = None
    validate: Annotated[ValidateKeys | None, Setting("Compare with the original.")] = None
    bench: Annotated[Benching | None, Setting("Measure latency.")] = None
    gate: Annotated[
        GateKeys | None,
        Setting("Limits.", rules=(requires(_in("gate", " ".join(item.name for item in fields(GateKeys)))),)),
    ] = None


SECTIONS: dict[str, type[Any]] = {
    name: item.kind
    for name, item in declared(JobKeys).items()
    if isinstance(item.kind, type) and is_dataclass(item.kind)
}
"""The sections by the keys that hold them."""


def schema() -> dict[str, Any]:
    """Return the JSON schema of a job. Omit a key for no value: null is not allowed."""
    parts = {group.__name__: schema_of(group) for group in SECTIONS.values()}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    head = {"$schema": dialect, "$id": IDENTIFIER, "title": "A job of onnxheadprune"}
    return {**head, **schema_of(JobKeys), "$defs": parts}


def schema_of(group: type[Any]) -> dict[str, Any]:
    """The keys of one section."""
    known = declared(group)
    return {
        "type": "object",
        "description": (group.__doc__ or "").partition("\n")[0],
        "properties": {name: _described(item) for name, item in known.items()},
        "required": [name for name, item in known.items() if item.required],
        "additionalProperties": False,
    }


def _described(item: Declared) -> dict[str, Any]:
    made = _value_schema(item) | {"description": NAMED.sub(r"\1", item.setting.help).replace("`", "")}
    is_given = not item.required and item.default not in (None, (), {})
    return made | ({"default": item.default} if is_given and not is_dataclass(item.kind) else {})


_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", Path: "string"}
_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "min_length": "minLength",
}


def _value_schema(item: Declared) -> dict[str, Any]:
    """The values that a key may have."""
    kinds = [_kind_schema(item, kind) for kind in (item.kind, *item.others)]
    if isinstance(item.bounds, WithUnit):
        kinds.append({"type": "string", "pattern": rf"^[0-9]+(\.[0-9]+)?{item.bounds.UNIT}$"})
    return {"anyOf": kinds} if kinds[1:] else kinds[0]


def _kind_schema(item: Declared, kind: Any) -> dict[str, Any]:
    if is_dataclass(kind) and isinstance(kind, type):
        return {"$ref": f"#/$defs/{kind.__name__}"}
    items = replace(item, kind=kind, others=()).items
    if get_origin(kind) is Mapping:
        keys = {"propertyNames": {"enum": list(item.words)}} if item.words else {}
        return {"type": "object", "additionalProperties": _value_schema(items) if items else True, **keys}
    if items is not None:
        return {"type": "array", "items": _value_schema(items)}
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    bounds = {_BOUNDS[name]: value for name, value in vars(item.bounds).items() if value is not None}
    fitting = {
        name: value for name, value in bounds.items() if (name == "minLength") is (kind in (str, Path))
    }
    return {"type": _TYPES[kind], **fitting}
