"""Neurons of a graph beside PyTorch's own: the columns of the map that reads them set to zero in the module."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from onnx import ModelProto
from torch import nn

from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import find_sites
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.errors import RefusedError
from onnxheadprune.selection.activations.contexts import projection_matrix
from tests.zoo.case import Case
from tests.zoo.reference import error, outputs

Array = npt.NDArray[np.float64]
CLOSE = 1e-5
"""Largest difference between a stored weight and the module's that is the same one."""


@dataclass(frozen=True)
class Comparison:
    """A cut of neurons beside PyTorch's.

    Attributes:
        blocks: feed-forward blocks that were found.
        compared: those whose last map is one of the module's.
        refused: why the others cannot lose neurons, by key.
        unmatched: keys of those whose last map is stored otherwise than the module has it.
        gathers: values that are picked from at run time.
        error: largest difference from PyTorch, relative to the output's scale.
        moved: how far the cut moves PyTorch's outputs, in the same unit.
    """

    blocks: int
    compared: tuple[str, ...]
    refused: Mapping[str, str]
    unmatched: tuple[str, ...]
    gathers: int
    error: float
    moved: float


def compare(module: nn.Module, case: Case, model: ModelProto) -> Comparison:
    """Removes every third neuron of every block, and of the last block all but a few.

    Args:
        module: from which the graph was exported.
        case: its inputs and outputs.
        model: the graph.

    Raises:
        RefusedError: if blocks that should lose neurons cannot.
    """
    blocks = find_sites(model).neurons
    refused = {block.key: str(block.reason) for block in blocks if block.reason is not None}
    silenced = copy.deepcopy(module)
    spec: dict[str, list[int]] = {}
    unmatched: list[str] = []
    chosen: dict[str, list[int]] = {}
    for block in blocks:
        if block.key in refused:
            continue
        path = _reader(block, module)
        if path is None:
            unmatched.append(block.key)
            continue
        # Layers that share a map lose the same neurons.
        spec[block.key] = chosen.setdefault(path, list(range(0, block.num_units, 3)))
    if not spec:
        return Comparison(len(blocks), (), refused, tuple(unmatched), 0, 0.0, 0.0)
    for path, gone in chosen.items():
        with torch.no_grad():
            _weight(silenced.get_submodule(path))[:, gone] = 0.0
    planning = analyse(model, spec, case.name)
    session = _session(apply_plan(planning.plan, model))
    worst, moved = 0.0, np.inf
    for feed in case.feeds:
        wanted, whole = outputs(silenced, case, feed), outputs(module, case, feed)
        names = {item.name for item in session.get_inputs()}
        given = {name: tensor.numpy() for name, tensor in feed.items() if name in names}
        made = dict(zip(case.outputs, session.run(list(case.outputs), given), strict=True))
        worst, moved = max(worst, error(made, wanted)), min(moved, error(wanted, whole))
    gathers = len(planning.plan.edge_gathers)
    return Comparison(len(blocks), tuple(spec), refused, tuple(unmatched), gathers, worst, float(moved))


def _session(model: ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _reader(block: Site, module: nn.Module) -> str | None:
    """The path of the module whose weight reads the block's neurons, by its numbers."""
    try:
        matrix: Array = projection_matrix(block.projections[0])
    except RefusedError:
        return None
    for path, item in module.named_modules():
        weight = _weight(item)
        if weight is None:
            continue
        numbers = weight.detach().movedim(1, 0).flatten(1).numpy()
        if numbers.shape != matrix.shape:
            continue
        if np.abs(numbers - matrix).max() <= CLOSE * max(np.abs(numbers).max(), 1e-30):
            return path
    return None


def _weight(module: nn.Module) -> torch.Tensor | None:
    """A view of a map's weight, oriented [out, in, ...], None for other modules."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() < 2 or isinstance(module, nn.Embedding):
        return None
    if type(module).__name__ == "Conv1D":
        return weight.t()
    return weight
