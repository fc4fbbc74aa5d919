"""Finished parts of a long ablation on disk, so that an interrupted one can be resumed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.scoring.scores import MAX_SCORES
from onnxheadprune.data.drift import Evidence
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import read_text
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.storage.claims import Making, check_makings
from onnxheadprune.model.storage.reading import in_memory
from onnxheadprune.model.storage.writing import write_text
from onnxheadprune.model.tensors import Floats
from onnxheadprune.model.typed_json import JsonObject, json_text, parsed

MARK = b'{"key": "'
"""The beginning of such a file."""


@dataclass(frozen=True)
class Finished(JsonObject):
    """The scores of finished sites."""

    key: str  # of model, data and settings
    sites: Mapping[int, tuple[float, ...]]  # by position


class Partial:
    """Finished sites, on disk as they come."""

    def __init__(self, path: str | os.PathLike[str] | None, key: str) -> None:
        """Read the results of an interrupted run with the same key."""
        self._path = None if path is None else Path(path)
        self._key = key
        self.found: dict[int, Floats] = {}
        if self._path is None:
            return
        check_makings([Making("the record of finished sites", self._path, mark=MARK)], list)
        try:
            stored = parsed(Finished, read_text(self._path, "the kept scores", MAX_SCORES))
        except (UsageError, ValueError):
            return
        if stored.key == key:
            self.found = {site: np.array(scores) for site, scores in stored.sites.items()}

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str] | None,
        model: LoadedModel,
        sites: Sequence[Site],
        evidence: Evidence,
    ) -> Partial:
        """Finished sites, for a model with its weights, data, provider and measure."""
        if path is None:
            return cls(None, "")
        data, effect = evidence.data, evidence.effect
        digest = hashlib.sha256()
        for tensor in model.proto.graph.initializer:
            digest.update(in_memory(tensor, model.sources).SerializeToString(deterministic=True))
        for node in model.proto.graph.node:
            digest.update(node.SerializeToString(deterministic=True))
        measure = effect or ""
        if callable(measure):
            measure = f"{measure.__module__}:{getattr(measure, '__qualname__', repr(measure))}"
        keys = ",".join(site.key for site in sites)
        return cls(
            path,
            f"{digest.hexdigest()} {keys} {data.fingerprint} {data.count} {evidence.provider.name} {measure}",
        )

    def add(self, position: int, scores: Floats) -> None:
        """Keep one site."""
        self.found[position] = scores
        if self._path is None:
            return
        done = Finished(self._key, {at: tuple(values.tolist()) for at, values in self.found.items()})
        write_text(self._path, json_text(done.to_dict()))

    def finish(self) -> None:
        """Remove the file after completion."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
