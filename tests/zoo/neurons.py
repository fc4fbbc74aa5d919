"""Neurons of a graph beside PyTorch's own: the columns of the map that reads them set to zero in the module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from onnx import ModelProto
from torch import nn

from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.edit.apply import apply_plan
from tests.zoo.case import Case
from tests.zoo.reference import error, outputs
from tests.zoo.units.silence import Original


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
    """Removes every third neuron of every block.

    Args:
        module: from which the graph was exported.
        case: its inputs and outputs.
        model: the graph.

    Raises:
        RefusedError: if blocks that should lose neurons cannot.
    """
    blocks = inspect(model).neurons
    refused = {block.key: str(block.reason) for block in blocks if block.reason is not None}
    original = Original(module, case, {}, blocks)
    # Layers that share a map lose the same neurons.
    units = {block: tuple(range(0, block.num_units, 3)) for block in blocks if block.key not in refused}
    unmatched = tuple(block.key for block in units if original.without({block: units[block]}) is None)
    going = {block: gone for block, gone in units.items() if block.key not in unmatched}
    silenced = original.without(going)
    if not going or silenced is None:
        return Comparison(len(blocks), (), refused, unmatched, 0, 0.0, 0.0)
    spec = {block.key: list(gone) for block, gone in going.items()}
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
    return Comparison(len(blocks), tuple(spec), refused, unmatched, gathers, worst, float(moved))


def _session(model: ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
