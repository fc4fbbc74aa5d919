"""Asks PyTorch what a graph of the zoo computes without some units."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from torch import nn

from onnxheadprune import Sites
from onnxheadprune.attention.sites.layers import LayerSite
from onnxheadprune.attention.sites.neuron_site import NeuronSite
from onnxheadprune.attention.sites.site import Site
from tests.zoo.build import Workshop
from tests.zoo.bypass import bypassed
from tests.zoo.case import Case
from tests.zoo.check import Ask
from tests.zoo.families import all_cases
from tests.zoo.folder import Folder
from tests.zoo.reference import outputs
from tests.zoo.row import EXPERTS, LAYERS
from tests.zoo.runs import Arrays
from tests.zoo.silence import Original, without_experts


@lru_cache(maxsize=1)
def _cases() -> Mapping[str, Case]:
    return {case.name: case for case in all_cases()}


@lru_cache(maxsize=2)
def _workshop(name: str) -> Workshop:
    return Workshop(_cases()[name], Path("never-written"))


@contextmanager
def _unwarned() -> Iterator[None]:
    """Warnings of libraries about deprecated calls are no fault of the graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def references(folder: Folder, sites: Sites) -> Ask:
    """The original model of one folder.

    Args:
        folder: of a case that the zoo builds.
        sites: of its graph.
    """
    if folder.case["name"] not in _cases():
        return lambda units, feed: None  # a package's, or another exporter's
    with _unwarned():
        workshop = _workshop(folder.case["name"])
        module, case = workshop.model(), workshop.case
        original = Original(module, case, sites.neurons)
    last: list[tuple[Mapping[Site, tuple[int, ...]], nn.Module | None]] = []

    def without(units: Mapping[Site, tuple[int, ...]]) -> nn.Module | None:
        layers = [site for site in units if isinstance(site, LayerSite)]
        if layers:
            return bypassed(module, case, sites.of(LAYERS), layers)
        if any(site.KIND.units == EXPERTS for site in units):
            return without_experts(module, units, sites.of(EXPERTS))
        return original.without({site: gone for site, gone in units.items() if isinstance(site, NeuronSite)})

    def ask(units: Mapping[Site, tuple[int, ...]], feed: int) -> Arrays | None:
        with _unwarned():
            # Held, not known by its id, which another cut may get once this one is gone.
            if not last or last[0][0] is not units:
                last[:] = [(units, without(units))]
            found = last[0][1]
            return None if found is None else dict(outputs(found, case, case.feeds[feed]))

    return ask
