"""Scoring methods: each is a class in a file of `methods/`, where it is found by lying there."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.data.drift import Evidence
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.tensors import Floats
from onnxheadprune.runtime.progress import Progress, silent


@dataclass(frozen=True)
class Working:
    """Settings of a long scoring."""

    model: LoadedModel | None = (
        None  # to send to an executor, which finished parts depend on; else the viewed model
    )
    executor: Executor | None = None  # where to score sites by themselves
    partial: str | os.PathLike[str] | None = None  # a file to keep finished sites in
    progress: Progress = silent


@dataclass(frozen=True, eq=False)
class Subject:
    """The sites that a method scores, with the data where it needs some."""

    view: GraphView  # of the model, annotated
    sites: Sequence[Site]
    evidence: Evidence | None = None
    # of the contexts of each site, by its index, where scores are shares of the site
    moments: Mapping[int, Sequence[Moments]] = field(default_factory=dict)
    working: Working = Working()

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


class ScoringMethod(ABC):
    """A way to score units. Its constants are literals: options are made of them before anything is imported."""

    NAME: ClassVar[str]
    """In options, files and Python."""
    ORDER: ClassVar[int]
    """Its place in lists; those of others begin at 50."""
    UNIT: ClassVar[str] = ""
    """The meaning of a score. It begins with "share of the site" if those of different sites do not compare."""
    READS: ClassVar[tuple[str, ...]] = ("contexts",)
    """Signals that it scores from: "contexts" (inputs of output projections), "router" (its choices among them)."""
    DATA: ClassVar[str] = "any"
    """The data that it needs: "" for none, "any", or "full" for as many positions as a linear layer has inputs."""
    DEFAULT: ClassVar[bool] = False
    """True if it is the default for what it reads."""
    BY_SITE: ClassVar[bool] = False
    """True if sites are scored independently of each other: by processes, and resumed."""
    GRADIENT: ClassVar[bool] = False
    """True if it needs the gradient of the drift, so that it takes no measure of the user."""

    @abstractmethod
    def __call__(self, subject: Subject) -> Scored:
        """Return the scores of the sites; larger is more important.

        Raises:
            RefusedError: if it cannot see into a site.
            UsageError: if the model does not run on the data.
        """


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
