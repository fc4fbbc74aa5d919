"""PyTorch without some units: a copy of the module in which what reads heads or neurons has zeros for them."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from onnxheadprune import RefusedError
from onnxheadprune.attention.sites.neuron_site import NeuronSite
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import projection_matrix
from onnxheadprune.liveness.sweep import sweep
from tests.zoo.case import Case, HeadSet, projection_weight, weight_of
from tests.zoo.modules import calls_of
from tests.zoo.runs import Array

ROUTERS = ("Router", "Mixture")
"""What classes are called that score experts and choose among them."""
CLOSE = 1e-5
"""Largest difference between a stored weight and the module's that is the same one."""
Columns = Sequence[Sequence[int]]
"""Input columns of a linear layer, for each time that it runs."""


def without_heads(module: nn.Module, case: Case, heads: HeadSet) -> nn.Module:
    """Return a copy in which the given query heads, one list per projection, contribute nothing."""
    runs: dict[str, list[list[int]]] = defaultdict(list)
    for projection, gone in zip(case.projections, heads, strict=True):
        runs[projection.path].append(projection.columns(gone))
    silenced = copy.deepcopy(module)
    for path, columns in runs.items():
        layer = silenced.get_submodule(path)
        _silence(layer, projection_weight(layer), columns)
    return silenced


def without_neurons(
    module: nn.Module, case: Case, units: Mapping[NeuronSite, Sequence[int]], blocks: Sequence[NeuronSite]
) -> nn.Module | None:
    """Return a copy in which neurons contribute nothing, None where what reads them is no weight of the module.

    Args:
        module: the model.
        case: its inputs.
        units: the neurons, per feed-forward block.
        blocks: all blocks of the graph, in graph order.
    """
    silenced = copy.deepcopy(module)
    readers: dict[str, list[NeuronSite]] = defaultdict(list)
    for block in blocks:
        if (path := _reader(block, module)) is not None:
            readers[path].append(block)
    for path, own in readers.items():
        columns = [_columns(block, units.get(block, ())) for block in own]
        if len({*map(tuple, columns)}) > 1 and calls_of(module, case, [path])[path] != len(own):
            return None
        layer = silenced.get_submodule(path)
        _silence(layer, weight_of(layer), columns)
    for block in units.keys() - {block for own in readers.values() for block in own}:
        place = _stacked(block, module)
        if place is None:
            return None
        name, axis = place
        with torch.no_grad():
            silenced.get_parameter(name).movedim(axis, -1)[..., _columns(block, units[block])] = 0.0
    return silenced


def without_experts(
    module: nn.Module, units: Mapping[Site, Sequence[int]], every: Sequence[Site]
) -> nn.Module | None:
    """Return a copy whose routers never choose some experts, None where its routers are no modules of their own.

    Args:
        module: the model.
        units: the experts, per mixture.
        every: all mixtures of the graph, in graph order.
    """
    copied = copy.deepcopy(module)
    routers = [item for item in copied.modules() if type(item).__name__.endswith(ROUTERS)]
    counts = [next(len(weight) for weight in item.parameters() if weight.dim() == 2) for item in routers]
    if counts != [site.num_units for site in every]:
        return None
    for router, site in zip(routers, every, strict=True):
        router.forward = partial(_within, _Never(units.get(site, ()), site.num_units), router.forward)
    return copied


class _Never(TorchFunctionMode):
    """Scores of some experts are minus infinity wherever they are compared; a router's own layer runs as it is."""

    def __init__(self, gone: Sequence[int], experts: int) -> None:
        super().__init__()
        self.gone, self.experts = list(gone), experts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function."""
        if func.__name__ in ("topk", "softmax", "max"):
            scores = args[0]
            # Groups of experts are compared by [tokens, groups, experts of a group].
            flat = scores if scores.shape[-1] == self.experts else scores.flatten(-2)
            if flat.shape[-1] == self.experts:
                args = (
                    flat.index_fill(-1, torch.tensor(self.gone), -torch.inf).view(scores.shape),
                    *args[1:],
                )
        return func(*args, **(kwargs or {}))


def _within(mode: TorchFunctionMode, forward: Callable[..., Any], *args: Any, **given: Any) -> Any:
    with mode:
        return forward(*args, **given)


def _silence(module: nn.Module, weight: torch.Tensor | None, columns: Columns) -> None:
    """Set columns to zero: of the weight, or of the input where calls differ or the weight is computed in each pass."""
    if weight is not None and not is_parametrized(module) and len({*map(tuple, columns)}) == 1:
        with torch.no_grad():
            weight[:, list(columns[0])] = 0.0
        return
    axis = 1 if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) else -1
    turns = itertools.cycle(columns)

    def mask(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        source = args[0].clone()
        source.movedim(axis, -1)[..., list(next(turns))] = 0.0
        return (source, *args[1:])

    module.register_forward_pre_hook(mask)


def _columns(block: NeuronSite, gone: Sequence[int]) -> list[int]:
    channels = block.projections[0].channels
    return sorted(position for neuron in gone for position in channels[neuron])


def _reader(block: NeuronSite, module: nn.Module) -> str | None:
    """Return the path of the module whose weight is that of a block's only projection, by its numbers."""
    if len(block.projections) > 1:
        return None
    try:
        matrix = projection_matrix(block.projections[0])
    except RefusedError:
        return None
    weights = ((path, weight_of(item)) for path, item in module.named_modules())
    matrices = (
        (path, weight.detach().movedim(1, 0).flatten(1)) for path, weight in weights if weight is not None
    )
    return next((path for path, item in matrices if _same(item.numpy(), matrix)), None)


def _stacked(block: NeuronSite, module: nn.Module) -> tuple[str, int] | None:
    """Return the parameter with the last maps of several experts, of which a router picks, and its axis of neurons."""
    if len(block.projections) > 1:
        return None
    projection = block.projections[0]
    value = projection.node.inputs[projection.weight[0]]
    while value is not None and value.tensor is None:
        value = None if value.producer is None else value.producer.input(0)
    if value is None:
        return None
    (axis,) = sweep(list(block.seeds([0]))).kept[value].axes
    numbers = value.numbers()
    return next((place for own, *place in _orders(module, axis) if _same(own, numbers)), None)


def _orders(module: nn.Module, axis: int) -> Iterator[tuple[Array, str, int]]:
    for name, parameter in module.named_parameters():
        own = parameter.detach().numpy()
        if own.ndim == 3:
            yield own, name, axis
            yield own.swapaxes(1, 2), name, 3 - axis


def _same(own: Array, stored: Array) -> bool:
    return own.shape == stored.shape and np.abs(own - stored).max() <= CLOSE * max(np.abs(own).max(), 1e-30)
