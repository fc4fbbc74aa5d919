"""Quantizing a model with ONNX Runtime's own quantizer, from end to end: read, quantize, try, measure, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from onnx import ModelProto

from onnxheadprune.data.calibration import Calibration, calibration_data
from onnxheadprune.data.sources import read_data
from onnxheadprune.display.displayed import Displayed
from onnxheadprune.display.facts import Fact, Facts, Figure, Figures
from onnxheadprune.display.spelling import many, size
from onnxheadprune.edit.records import (
    VALIDATION_KEY,
    QuantizedRecord,
    drop_metadata,
    record_of,
    set_metadata,
    write_record,
)
from onnxheadprune.errors import InferenceError, RefusedError
from onnxheadprune.model.load import LARGE, LoadedModel, ModelLike, open_structure
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.save import Outputs, stage_model
from onnxheadprune.model.storage.tensors import StoredSize, stored_size
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.model.typed_json import HIDDEN, OR_NULL, Key, Spelled
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds.data import USERS_DATA, Basis, DataSource
from onnxheadprune.runtime.progress import Note, Progress, silent
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.runtime.quantizing import decided, quantized
from onnxheadprune.settings.calls import QuantizeCall
from onnxheadprune.settings.measuring import Rounding
from onnxheadprune.settings.setting import part_of
from onnxheadprune.validation.figures import drift_figure
from onnxheadprune.validation.summary import size_words, sized
from onnxheadprune.workflow.apart import Reference
from onnxheadprune.workflow.requests import measure_of, readings_of

TIMES = 3
"""Memory that ONNX Runtime's quantizers take, as a multiple of the weights; they have no form that streams."""


def _count_names(counts: tuple[int, int]) -> dict[str, int]:
    return {"stored": counts[0], "quantized": counts[1]}


@one_line("name output before after drift unit measured_on")
@dataclass(frozen=True, eq=False)
class QuantizeResult(Displayed):
    """A quantized model and how it came about.

    Attributes:
        model: the quantized model, with its weights in memory.
        name: of the model that it was made of.
        how: the way and its settings, decided.
        output: where it was written, None if it was not.
        before: what the original's stored tensors hold.
        after: what the quantized model's stored tensors hold.
        matrices: how many stored float matrices there were, and how many of them are quantized.
        drift: how far the main output moves, as a deployment runs both; None without data.
        unit: of the drift.
        measured_on: what the drift was measured on, and what has seen that before.
        samples: how many samples that is.
        notes: what a reader should know, one sentence each.
        basis: the data of the drift.
    """

    model: Annotated[ModelProto, HIDDEN]
    name: Annotated[str, Key("model")]
    how: Annotated[Rounding, Key("quantization")]
    output: str | None
    before: StoredSize
    after: StoredSize
    matrices: Annotated[tuple[int, int], Spelled(Any, _count_names)]
    drift: float | None = None
    unit: Annotated[str, Key("drift_unit"), OR_NULL] = ""
    measured_on: Annotated[str, Key("drift_measured_on"), OR_NULL] = ""
    samples: Annotated[int, Key("drift_samples"), OR_NULL] = 0
    notes: tuple[str, ...] = ()
    basis: Annotated[Basis, HIDDEN] = USERS_DATA

    def facts(self) -> Facts:
        """The sentence, the weights before and after, and the drift."""
        stored, done = self.matrices
        figures = [sized("weights", self.before.bytes, self.after.bytes)]
        details: tuple[Fact, ...] = ()
        if self.drift is None:
            figures.append(Figure("drift", note="not measured: give `data`"))
        else:
            figures.append(drift_figure(self.drift, self.unit, self.basis.note(self.samples)))
            drift = f"{self.drift:.3g} ({self.unit}) on {self.measured_on}, as a deployment runs both"
            details = (Fact("drift", drift),)
        parts = (Figures(tuple(figures)), Fact("settings", settings_of(self.how)))
        notes = (Fact("note", note, "doubtful") for note in self.notes)
        answer = f"{done} of {many(stored, 'stored float tensor')} to {self.how.to}, {size_words(figures[0])}"
        return Facts(self.output or self.name, answer, "open", (*parts, *notes), details)


def run_quantize(
    model: ModelLike,
    call: QuantizeCall,
    progress: Progress = silent,
    ready: Callable[[QuantizeResult], None] = lambda _: None,
    *,
    read: Callable[[ModelLike, QuantizeCall], DataSource | None] = read_data,
) -> QuantizeResult:
    """Quantize a model as a call asks for.

    Args:
        ready: called with the whole result before a file has its name; nothing is written if it raises.
        read: reads the inputs on which it is calibrated and measured.
    """
    loaded = open_structure(model)
    target = Outputs.of(call.output).claim(loaded, others=readings_of(call)).model
    effect, data = measure_of(call.drift), read(loaded, call)
    earlier = record_of(loaded.proto).quantized
    if earlier is not None:
        raise RefusedError(
            f"{loaded.name} is quantized to {earlier.to} already; quantize the model in floats"
        )
    how = decided(part_of(Rounding, call))
    learn, held = _parts(None if data is None else calibration_data(data, view_of(loaded)), how)
    stored = stored_size(loaded.proto).bytes
    if stored > LARGE:
        told = f"ONNX Runtime quantizes in memory, which takes about {size(TIMES * stored)} here"
        progress(Note(told), 0, 0)
    progress(f"quantizing to {how.to}", 0, 0)
    made = quantized(loaded, how, () if learn is None else learn.feeds)
    matrices = _matrices(loaded.proto, made)
    if not matrices[1]:
        raise RefusedError(
            f"ONNX Runtime's quantizer finds nothing in {loaded.name} that it makes {how.to} of: it takes float32"
            " weights of products that are stored as initializers"
        )
    _write_record(loaded.proto, made, how, learn)
    result = LoadedModel(made, "the quantized model")
    try:
        Session(result, Provider(CPU, "check"), name="the quantized model", optimize=True)
    except InferenceError as error:
        raise RefusedError(
            f"ONNX Runtime does not run what its own quantizer makes of {loaded.name}: {error}"
        ) from error
    drift, unit, known, samples, basis = None, "", "", 0, USERS_DATA
    if held is not None:
        progress("measuring drift", 0, 0)
        where = resolve_provider(call.provider)
        distance = Reference(loaded, held, where).distance(result, effect)
        drift, unit, known, samples = distance.drift, distance.unit, distance.measured_on, distance.samples
        basis = held.role or USERS_DATA
    written = None if target is None else str(target)
    sizes = stored_size(loaded.proto), stored_size(made)
    notes = _notes(call, how)
    found = QuantizeResult(
        made, loaded.name, how, written, *sizes, matrices, drift, unit, known, samples, notes, basis
    )
    if target is None:
        ready(found)
        return found
    with stage_model(result, target, call) as stage:
        ready(found)
        stage.seal()
        stage.commit()
    return found


def _parts(data: Calibration | None, how: Rounding) -> tuple[Calibration | None, Calibration | None]:
    """The data for ranges, and those for the drift."""
    if data is None or how.to != "int8-qdq":
        return None, data
    return held_out(data)


def held_out(data: Calibration) -> tuple[Calibration, Calibration]:
    """The data for ranges and refits, and those for figures, which say so."""
    learn, held = data.split()
    if held is learn:
        seen = "quantization"
        return learn, replace(
            held, role=Basis(measured_on=f"{USERS_DATA.measured_on}, which the {seen} has seen", seen_by=seen)
        )
    of = f"{held.count:,} of {many(data.count, data.unit)}"
    return learn, replace(held, role=Basis(measured_on=f"data that was held out here ({of})", held_out=True))


def _matrices(before: ModelProto, after: ModelProto) -> tuple[int, int]:
    """Stored float tensors of two axes or more, and how many of them are floats no more."""
    left = {tensor.name for tensor in after.graph.initializer if tensor.data_type in FLOATS}
    names = [t.name for t in before.graph.initializer if t.data_type in FLOATS and len(t.dims) > 1]
    return len(names), sum(name not in left for name in names)


def _write_record(before: ModelProto, made: ModelProto, how: Rounding, data: Calibration | None) -> None:
    """All that the original said of itself, but for what is no longer so, and how it was quantized."""
    for entry in before.metadata_props:
        set_metadata(made, entry.key, entry.value)
    # What was proven and sealed is not in this file; the refit lies in weights that have other names now.
    drop_metadata(made, VALIDATION_KEY)
    settings: Mapping[str, bool | int] = (
        {"block_size": how.block_size}
        if how.to == "int4"
        else {"per_channel": how.per_channel, "reduce_range": bool(how.reduce_range)}
    )
    fingerprint, count = (None, 0) if data is None else (data.fingerprint, data.count)
    record = record_of(before)
    quantized = QuantizedRecord(how.to, settings, fingerprint, count, record.refit)
    write_record(made, replace(record, refit=None, quantized=quantized))


def _notes(asked: Rounding, used: Rounding) -> tuple[str, ...]:
    """Notes on settings that were decided for the user, with the reason."""
    if used.to == "int4" or asked.reduce_range is not None:
        return ()
    if used.reduce_range:
        reason = "since this processor's product of uint8 by int8 saturates"
        return (
            (
                f"weights use seven of their eight bits, {reason}; `reduce_range=False` is"
                " for one that does not"
            ),
        )
    return (
        ("weights use all eight bits; `reduce_range` is for x86 processors without VNNI, which saturate"),
    )


def settings_of(how: Rounding) -> str:
    """The scales and bits of a quantization, in words."""
    if how.to == "int4":
        return f"blocks of {how.block_size} inputs, symmetric"
    scales = "a scale per output" if how.per_channel else "a scale per tensor"
    return f"{scales}, {'seven' if how.reduce_range else 'eight'} bits"
