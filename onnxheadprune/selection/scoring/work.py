"""One piece of scoring work as data that can travel to another process or machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.find import sites_of, view_of
from onnxheadprune.attention.sites.site import Site, Sites
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.travelling import Sent, arrived, sent
from onnxheadprune.runtime import Provider
from onnxheadprune.selection.activations.data import Calibration
from onnxheadprune.selection.activations.drift import Measure
from onnxheadprune.selection.scoring.ablation import ablation_scores


@dataclass(frozen=True, eq=False)
class SiteTask:
    """Ablate the units of one site.

    Attributes:
        model: the model; a process that sees several sites of one model reads it once.
        site: index of the site.
        data: what to run on.
        provider: where.
        effect: the user's measure.
    """

    model: Sent
    site: int
    data: Calibration
    provider: Provider
    effect: Measure | None = None


def site_tasks(
    model: LoadedModel, sites: Sequence[Site], data: Calibration, provider: Provider, effect: Measure | None
) -> list[SiteTask]:
    """A task per site.

    Raises:
        RefusedError: if the model is too large to be sent around, and has no file.
    """
    travelling = sent(model)
    return [SiteTask(travelling, site.index, data, provider, effect) for site in sites]


def ablate(task: SiteTask) -> npt.NDArray[np.float64]:
    """The scores of the task's site."""
    view, sites = _read(task.model)
    return ablation_scores(view, sites.at(task.site), task.data, task.provider, task.effect)


_CACHE: dict[str, tuple[GraphView, Sites]] = {}


def _read(model: Sent) -> tuple[GraphView, Sites]:
    if model.digest not in _CACHE:
        _CACHE.clear()
        loaded = arrived(model)
        view = view_of(loaded)
        _CACHE[model.digest] = view, sites_of(view, "the model")
    return _CACHE[model.digest]
