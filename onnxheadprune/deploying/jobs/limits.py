"""The limits of a job: each a yes or no, with the number behind it, out of the results of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.deploying.jobs.asked import Document
from onnxheadprune.deploying.jobs.keys import GateKeys
from onnxheadprune.deploying.jobs.result import of_each
from onnxheadprune.model.load import open_structure
from onnxheadprune.validation.result import Drift, drift_gate
from onnxheadprune.workflow.sizes import file_bytes


def gates_of(asked: GateKeys, results: Mapping[str, Document], model: Path, final: Path) -> list[Gate]:
    """Every limit that a job sets."""
    limits: dict[str, float] = {name: limit for name, limit in asdict(asked).items() if limit is not None}
    validations = of_each(results["validate"]) if "validate" in results else []
    found = [
        replace(gate, subject=f"{gate.subject} of {result['file']}") if "file" in result else gate
        for result in validations
        for gate in _of_validation(limits, result)
    ]
    speedups = [_speedup(result) for result in of_each(results.get("bench", {}))]
    known = [speedup for speedup in speedups if speedup is not None]
    measured = {
        "min_speedup": min(known) if known and len(known) == len(speedups) else None,
        "max_file_bytes": disk_bytes(final),
        "max_size_ratio": disk_bytes(final) / disk_bytes(model),
        "max_operations_ratio": _operations(results.get("recover", results.get("prune", {}))),
    }
    found += [
        _gate(name, final.name, limits[name], value) for name, value in measured.items() if name in limits
    ]
    order = list(limits)
    return sorted(found, key=lambda gate: order.index(gate.name))


def _of_validation(limits: Mapping[str, float], result: Document) -> Iterator[Gate]:
    deployed: Document | None = result.get("deployed")
    if "max_drift" in limits:
        yield _drift(limits["max_drift"], result, deployed)
    for kind, subject in (("accuracy", "output"), ("metric", "name")):
        measured: Document = (deployed or result)[kind] or {}
        before, after = measured.get("original"), measured.get("pruned")
        drop = None if before is None or after is None else before - after
        values = {f"min_{kind}": after, f"max_{kind}": after, f"max_{kind}_drop": drop}
        for name, value in values.items():
            if name in limits:
                yield _gate(name, measured.get(subject, kind), limits[name], value)


def _drift(limit: float, result: Document, deployed: Document | None) -> Gate:
    """The drift of what came out: of a quantized model as a deployment runs it."""
    if deployed is not None:
        value = deployed["drift"]
        return Gate("max_drift", "the quantized model", limit, value, value <= limit, deployed["drift_unit"])
    drift = result["drift"]
    return drift_gate(None if drift is None else Drift(**drift), limit)


def _gate(name: str, subject: str, limit: float, value: float | None) -> Gate:
    """A number against its limit; what could not be measured keeps none."""
    kept = value is not None and (value >= limit if name.startswith("min_") else value <= limit)
    return Gate(name, subject, limit, value, kept)


def _speedup(result: Document) -> float | None:
    """The smallest speed-up over the grid, as `bench` judges it."""
    found = result.get("guaranteed", {}).get("1")
    return None if found is None else float(found)


def disk_bytes(model: Path) -> int:
    """Return what a model takes on the disk, or all models of a folder."""
    if model.is_dir():
        return sum(disk_bytes(path) for path in sorted(model.rglob("*.onnx")))
    taken = file_bytes(open_structure(model))
    assert taken is not None
    return taken


def _operations(result: Document) -> float | None:
    """The share that is left; of a folder, of the files that lead its networks."""
    counted = [item.get("operations") for item in of_each(result) if item.get("leads", True)]
    if not counted or any(not item or not item["before"] for item in counted):
        return None
    after, before = (sum(item[when] for item in counted if item) for when in ("after", "before"))
    return float(after / before)
