"""The keys of a job, as types: the JSON schema, the checks and the rules are made from them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from onnxheadprune.settings.cutting import AMOUNT, TOKENS, UNITS, Cut, Drift, Recovering, Scoring
from onnxheadprune.settings.inputs import DATA_HELP, Data, Format, Provider, Samples, Seed
from onnxheadprune.settings.measuring import Benching, Metric, Rounding
from onnxheadprune.settings.setting import (
    Count,
    Factor,
    NotNegative,
    Setting,
    Shares,
    Text,
    declared,
    excludes,
    requires,
)
from onnxheadprune.settings.writing import AcceptInconclusive, Runtime, Storing

if TYPE_CHECKING:
    from pydantic import TypeAdapter

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

    # A number is a number and no text, and a key that is not listed is a mistake; this holds for the sections, too.
    __pydantic_config__: ClassVar[Mapping[str, object]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }

    model: Annotated[Path, Setting("The exported model.")]
    output: Annotated[Path, Setting("The folder for everything that the job makes.")]
    prune: Annotated[
        PruneKeys,
        Setting("What to remove.", rules=(requires(f"{_in('prune', f'{UNITS} exit {TOKENS}')} {_AMOUNT}"),)),
    ]
    version: Annotated[Literal[1], Setting("Version of this format.")] = 1
    name: Annotated[Text | None, Setting("Name of the job in reports; that of its file if not given.")] = None
    provider: Provider = "auto"
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


@functools.cache
def adapter() -> TypeAdapter[JobKeys]:
    """Read a job into its types."""
    from pydantic import TypeAdapter

    return TypeAdapter(JobKeys)


def schema() -> dict[str, Any]:
    """Return the JSON schema of a job. Omit a key for no value: null is not allowed."""
    from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

    class Plain(GenerateJsonSchema):
        """Without titles, which repeat the names of keys, and without null."""

        def nullable_schema(self, schema: Any) -> JsonSchemaValue:
            return self.generate_inner(schema["schema"])

        def default_schema(self, schema: Any) -> JsonSchemaValue:
            made = super().default_schema(schema)
            return {name: value for name, value in made.items() if (name, value) != ("default", None)}

        def field_title_should_be_set(self, schema: Any) -> bool:
            return False

        def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
            made = super().dataclass_schema(schema)
            made.pop("title", None)
            return made

    made = adapter().json_schema(schema_generator=Plain)
    return {"$schema": Plain.schema_dialect, "$id": IDENTIFIER, "title": "A job of onnxheadprune", **made}
