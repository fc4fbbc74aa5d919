"""The JSON documents that commands print with --json, told apart by their fields: what a page is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import Document, json_of, read_text
from onnxheadprune.model.facts import Facts

DocumentKind: TypeAlias = Literal["cut", "validation", "benchmark", "curve"]
MAX_RESULT = 2**26
"""Bytes of a result; a thousand sites with all edits of their plan take a quarter of it."""
_FIELDS: Mapping[DocumentKind, frozenset[str]] = {
    "curve": frozenset({"points", "heads", "drift_unit"}),
    "benchmark": frozenset({"models", "cells", "verdicts"}),
    "validation": frozenset({"original", "pruned", "verdict", "cases"}),
    "cut": frozenset({"cuts", "edits", "fingerprint"}),
}


def _kind_of(document: Document) -> DocumentKind | None:
    if isinstance(document.get("plan"), Mapping):
        return "cut"
    return next((kind for kind, fields in _FIELDS.items() if fields <= document.keys()), None)


@dataclass(frozen=True)
class Shipped:
    """The files of a result that are deployed."""

    name: str
    before: int  # bytes of the original's files
    after: int  # bytes of its files
    quantized: bool  # whether it was made of the proven model by quantization


@dataclass(frozen=True)
class Documents:
    """All that one page tells of."""

    facts: Facts | None = None  # of a job; None makes them of the documents
    shipped: Shipped | None = None  # what came out of a job, None without one
    # results of folders, whose models are among the cuts
    folders: list[Document] = field(default_factory=list)
    cuts: list[Document] = field(default_factory=list)  # results of `prune` and `fuse`, or plans of a dry run
    validations: list[Document] = field(default_factory=list)  # results of `validate`
    benchmarks: list[Document] = field(default_factory=list)  # results of `bench`
    curves: list[Document] = field(default_factory=list)  # results of `sweep`
    limits: list[Document] = field(default_factory=list)  # of a pipeline, each with whether it was kept

    def add(self, document: Any, source: str) -> None:
        """Files a document where it belongs."""
        files = document.get("files") if isinstance(document, Mapping) else None
        if isinstance(files, list):
            # A folder: a result for each of its models.
            if document.get("folder"):
                self.folders.append(document)
            for item in files:
                if isinstance(item, Mapping):
                    self.add({"run": document.get("run"), **item}, f"{source}, {item.get('file')}")
            return
        kind = _kind_of(document) if isinstance(document, Mapping) else None
        if kind is None:
            raise UsageError(
                f"{source} is no result of prune, fuse, sweep, validate or bench; save one with --json > FILE"
            )
        self.limits.extend(document.get("gates") or ())
        match kind:
            case "cut":
                # A plan of a dry run is told like the result that it would have.
                self.cuts.append(document if "plan" in document else {**document, "plan": document})
            case "validation":
                self.validations.append(document)
                if isinstance(document.get("benchmark"), Mapping):
                    self.benchmarks.append(document["benchmark"])
            case "benchmark":
                self.benchmarks.append(document)
            case "curve":
                self.curves.append(document)

    def counts(self) -> dict[str, int]:
        """Return how many results of each kind there are."""
        kinds = ("cuts", "validations", "benchmarks", "curves")
        return {name: len(getattr(self, name)) for name in kinds}


def read_documents(paths: Iterable[Path]) -> Documents:
    """The documents of several files."""
    found = Documents()
    for path in paths:
        where = f"the result {path}"
        found.add(json_of(read_text(path, "the result", MAX_RESULT), where), where)
    return found
