"""One piece of scoring work as data that can travel to another process or machine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from onnxheadprune.attention.sites.find import sites_of, view_of
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import INLINE_LIMIT, stored_bytes
from onnxheadprune.runtime import Provider
from onnxheadprune.selection.activations.data import Calibration
from onnxheadprune.selection.activations.drift import Measure
from onnxheadprune.selection.scoring.ablation import ablation_scores


@dataclass(frozen=True, eq=False)
class SiteTask:
    """Ablate the heads of one site.

    Attributes:
        model: the serialized model.
        key: its hash; a process that sees several sites of one model reads it once.
        site: position among the model's sites.
        data: what to run on.
        provider: where.
        effect: the user's measure.
    """

    model: bytes
    key: str
    site: int
    data: Calibration
    provider: Provider
    effect: Measure | None = None


def site_tasks(
    model: ModelProto, sites: int, data: Calibration, provider: Provider, effect: Measure | None
) -> list[SiteTask]:
    """A task per site.

    Raises:
        RefusedError: if the model is too large to be sent around.
    """
    if stored_bytes(model) > INLINE_LIMIT:
        raise RefusedError("a model of more than 2 GiB cannot be sent to other processes; use --jobs 1")
    content = model.SerializeToString()
    key = hashlib.sha256(content).hexdigest()
    return [SiteTask(content, key, position, data, provider, effect) for position in range(sites)]


def ablate(task: SiteTask) -> npt.NDArray[np.float64]:
    """The scores of the task's site."""
    view, sites = _parsed(task)
    return ablation_scores(view, sites[task.site], task.data, task.provider, task.effect)


_CACHE: dict[str, tuple[GraphView, Sites]] = {}


def _parsed(task: SiteTask) -> tuple[GraphView, Sites]:
    if task.key not in _CACHE:
        _CACHE.clear()
        model: Any = ModelProto()
        model.ParseFromString(task.model)
        view = view_of(model)
        _CACHE[task.key] = view, sites_of(view, "the model")
    return _CACHE[task.key]
