"""Asks PyTorch what a graph of the zoo computes without some units."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto
from torch import nn

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.sites.sublayer_site import SublayerSite
from tests.zoo.build import Workshop
from tests.zoo.case import Case
from tests.zoo.families import all_cases
from tests.zoo.folder import Folder
from tests.zoo.match import match_sites
from tests.zoo.reference import outputs
from tests.zoo.runs import Arrays, Runner
from tests.zoo.units.check import Reference
from tests.zoo.units.silence import Original


@lru_cache(maxsize=1)
def _cases() -> Mapping[str, Case]:
    return {case.name: case for case in all_cases()}


@lru_cache(maxsize=2)
def _module(name: str) -> nn.Module:
    return Workshop(_cases()[name], Path("never-written")).model()


@contextmanager
def _unwarned() -> Iterator[None]:
    """What libraries want to be called otherwise is no fault of the graph."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def references(folder: Folder, sites: Sites) -> Reference:
    """What answers for one folder.

    Args:
        folder: of a case that the zoo builds.
        sites: of its graph.
    """
    case = _cases()[folder.case["name"]]
    with _unwarned():
        module = _module(case.name)
        matched = match_sites(sites, folder.projections, folder.weights) or {}
        original = Original(module, case, matched, sites.neurons, _added(folder, sites))
    last: list[tuple[Mapping[Site, tuple[int, ...]], nn.Module | None]] = []

    def ask(units: Mapping[Site, tuple[int, ...]], feed: int) -> Arrays | None:
        with _unwarned():
            # Held, not known by its id, which another cut may get once this one is gone.
            if not last or last[0][0] is not units:
                last[:] = [(units, original.without(units))]
            found = last[0][1]
            return None if found is None else dict(outputs(found, case, case.feeds[feed]))

    return ask


def _added(folder: Folder, sites: Sites) -> dict[SublayerSite, NDArray[np.float64]]:
    """The outputs, on the first feed, of sublayers that are removed as terms of a residual sum."""
    terms: dict[SublayerSite, str] = {}
    for site in sites.every:
        term = site.projections[0].term if isinstance(site, SublayerSite) else None
        value = None if term is None else term.node.inputs[term.input_index]
        if isinstance(site, SublayerSite) and value is not None and not value.is_constant:
            terms[site] = value.name
    if not terms:
        return {}
    model = ModelProto()
    model.CopyFrom(folder.model)
    declared = {info.name for info in model.graph.output}
    model.graph.output.extend(ValueInfoProto(name=name) for name in {*terms.values()} - declared)
    given = Runner(model)(folder.feeds()[0])
    return {site: given[name].astype(np.float64) for site, name in terms.items()}
