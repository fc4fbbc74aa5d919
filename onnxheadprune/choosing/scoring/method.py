"""The interface of scoring methods: each is a function `(Subject) -> Scored` that `settings/registry.py` declares.

It returns importance per present unit, larger is more important, and raises RefusedError if it cannot see into a site,
UsageError if the model does not run on the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.data.drift import Evidence
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.tensors import Floats
from onnxheadprune.runtime.progress import Progress, silent


@dataclass(frozen=True, eq=False)
class Subject:
    """The sites that a method scores, with the data where it needs some."""

    view: GraphView  # of the model, annotated
    sites: Sequence[Site]
    evidence: Evidence | None = None
    # of the contexts of each site, by its index, where scores are shares of the site
    moments: Mapping[int, Sequence[Moments]] = field(default_factory=dict)
    progress: Progress = silent

    @property
    def data(self) -> Evidence:
        """The evidence, for methods that need data."""
        assert self.evidence is not None
        return self.evidence


class Scored(NamedTuple):
    """Scores of present units by the index of their site."""

    values: Mapping[int, Floats]
    unit: str = ""  # of scores, where the data decides it
    constant: Mapping[str, str] = {}  # values that were held constant, with the reason, by name
    skipped: Mapping[str, str] = {}  # sites that cannot be scored, with the reason, by label


def from_contexts(subject: Subject, of: Callable[[Site, Sequence[Moments]], Floats]) -> dict[int, Floats]:
    """Scores from the moments of contexts, for the sites that have some."""
    return {site.index: of(site, subject.moments[site.index]) for site in subject.sites if site.contexts}


def shares(values: Floats) -> Floats:
    """Scores as shares of the site, so that sites of different scale are comparable."""
    total = values.sum()
    found: Floats = values / total if total > 0 else np.full(len(values), 1 / max(len(values), 1))
    return found


def summed(site: Site, each: Sequence[Floats]) -> Floats:
    """The sum over the channels of each unit, of an array per projection."""
    total = np.zeros(site.num_units)
    for projection, values in zip(site.projections, each, strict=True):
        total += [values[list(channels)].sum() for channels in projection.channels]
    return total
