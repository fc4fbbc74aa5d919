"""The limits of a job against what its steps measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.deploying.jobs.keys import GateKeys
from onnxheadprune.model.documents import Document
from onnxheadprune.model.load import file_bytes, open_structure
from onnxheadprune.validation.figures import Quality
from onnxheadprune.validation.result import drift_gate, strict_gate
from onnxheadprune.validation.summary import files_of


def limits_of(asked: GateKeys | None) -> dict[str, float]:
    """The limits that a job sets, by name."""
    limits = {} if asked is None else asdict(asked)
    return {name: limit for name, limit in limits.items() if limit is not None and limit is not False}


def gates_of(
    limits: Mapping[str, float], results: Mapping[str, Document], model: Path, final: Path
) -> list[Gate]:
    """Each limit with what was measured."""
    if not limits:
        return []
    validations = files_of(results["validate"]) if "validate" in results else []
    found = [
        replace(gate, subject=f"{gate.subject} of {result['file']}") if "file" in result else gate
        for result in validations
        for gate in _of_validation(limits, result)
    ]
    speedups = [_speedup(result) for result in files_of(results.get("bench", {}))]
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
    # Of a quantized model, the figures of it run as in a deployment.
    found = Quality.of(result.get("deployed") or result)
    if "strict" in limits:
        yield strict_gate(result["pruned"], result["exact"])
    if "max_drift" in limits:
        yield drift_gate(found.drift, limits["max_drift"])
    judged = (
        ("accuracy", found.accuracy and found.accuracy.output, found.accuracy),
        ("metric", found.metric and found.metric.name, found.metric),
    )
    for kind, subject, measured in judged:
        after = None if measured is None else measured.pruned
        drop = None if measured is None else measured.original - measured.pruned
        values = {f"min_{kind}": after, f"max_{kind}": after, f"max_{kind}_drop": drop}
        for name, value in values.items():
            if name in limits:
                yield _gate(name, subject or kind, limits[name], value)


def _gate(name: str, subject: str, limit: float, value: float | None) -> Gate:
    """A number against its limit; a number that could not be measured breaks it."""
    kept = value is not None and (value >= limit if name.startswith("min_") else value <= limit)
    return Gate(name, subject, limit, value, kept)


def _speedup(result: Document) -> float | None:
    found = result.get("guaranteed", {}).get("1")
    return None if found is None else float(found)


def disk_bytes(model: Path) -> int:
    """Return the size of a model on the disk, or of all models of a folder."""
    if model.is_dir():
        return sum(disk_bytes(path) for path in sorted(model.rglob("*.onnx")))
    taken = file_bytes(open_structure(model))
    assert taken is not None
    return taken


def _operations(result: Document) -> float | None:
    """The remaining share of operations; of a folder, for the leading files of its networks."""
    counted = [item.get("operations") for item in files_of(result) if item.get("leads", True)]
    if not counted or any(not item or not item["before"] for item in counted):
        return None
    after, before = (sum(item[when] for item in counted if item) for when in ("after", "before"))
    return float(after / before)
