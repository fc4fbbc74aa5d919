"""PyTorch without some neurons: the columns of the maps that read them set to zero in a copy of the module."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from onnxheadprune import RefusedError
from onnxheadprune.attention.sites.neuron_site import NeuronSite
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.contexts import projection_matrix
from onnxheadprune.liveness.sweep import sweep
from tests.zoo.case import Case
from tests.zoo.reference import outputs

Array = npt.NDArray[np.float64]
ROUTERS = (".gate", ".router")
"""Names of the layers that score experts."""
CLOSE = 1e-5
"""Largest difference between a stored weight and the module's that is the same one."""


@dataclass(frozen=True)
class Original:
    """What a graph was exported from.

    Attributes:
        module: the model.
        case: its inputs.
        blocks: all feed-forward blocks of the graph, in graph order.
    """

    module: nn.Module
    case: Case
    blocks: Sequence[NeuronSite]

    def without(self, units: Mapping[NeuronSite, Sequence[int]]) -> nn.Module | None:
        """A copy in which neurons contribute nothing, None where what reads them is not one of the module's weights."""
        silenced = copy.deepcopy(self.module)
        readers = self._readers()
        found = {block for blocks in readers.values() for block in blocks}
        for path, blocks in readers.items():
            columns = [_columns(block, units.get(block, ())) for block in blocks]
            if any(columns) and not _silenced(silenced, path, columns, self.case):
                return None
        for block in units.keys() - found:
            place = stacked(block, self.module) if len(block.projections) == 1 else None
            if place is None:
                return None
            name, axis = place
            with torch.no_grad():
                experts = silenced.get_parameter(name)
                experts.movedim(axis, -1)[..., _columns(block, units[block])] = 0.0
        return silenced

    def _readers(self) -> dict[str, list[NeuronSite]]:
        """The blocks that each map of the module reads, in order."""
        found: dict[str, list[NeuronSite]] = {}
        for block in self.blocks:
            path = reader(block.projections[0], self.module) if len(block.projections) == 1 else None
            if path is not None:
                found.setdefault(path, []).append(block)
        return found


def without_experts(
    module: nn.Module, units: Mapping[Site, Sequence[int]], every: Sequence[Site]
) -> nn.Module | None:
    """A copy whose routers never choose some experts, None where its routers are no linear layers of their own.

    Args:
        module: the model.
        units: the experts, per mixture.
        every: all mixtures of the graph, in graph order.
    """
    copied = copy.deepcopy(module)
    routers = [
        item
        for path, item in copied.named_modules()
        if path.endswith(ROUTERS) and isinstance(item, nn.Linear)
    ]
    if len(routers) != len(every) or any(
        router.out_features != site.num_units for router, site in zip(routers, every, strict=True)
    ):
        return None

    def never(gone: list[int], _: nn.Module, __: object, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(-1, torch.tensor(gone), -torch.inf)

    for router, site in zip(routers, every, strict=True):
        if gone := list(units.get(site, ())):
            router.register_forward_hook(partial(never, gone))
    return copied


def reader(projection: Projection, module: nn.Module) -> str | None:
    """The path of the module whose weight is a projection's, by its numbers."""
    try:
        matrix: Array = projection_matrix(projection)
    except RefusedError:
        return None
    for path, item in module.named_modules():
        weight = weight_of(item)
        if weight is None:
            continue
        numbers = weight.detach().movedim(1, 0).flatten(1).numpy()
        if numbers.shape != matrix.shape:
            continue
        if np.abs(numbers - matrix).max() <= CLOSE * max(np.abs(numbers).max(), 1e-30):
            return path
    return None


def stacked(block: NeuronSite, module: nn.Module) -> tuple[str, int] | None:
    """The parameter with the last maps of several experts, of which a router picks, and its axis of neurons."""
    projection = block.projections[0]
    value = projection.node.inputs[projection.weight[0]]
    while value is not None and value.tensor is None:
        value = None if value.producer is None else value.producer.input(0)
    if value is None:
        return None
    numbers = value.numbers()
    (axis,) = sweep(list(block.seeds([0]))).kept[value].axes
    for name, parameter in module.named_parameters():
        own = parameter.detach().numpy()
        if own.ndim != 3:
            continue
        for turned, at in ((own, axis), (own.swapaxes(1, 2), 3 - axis)):
            if turned.shape == numbers.shape and np.abs(turned - numbers).max() <= CLOSE * np.abs(own).max():
                return name, at
    return None


def weight_of(module: nn.Module) -> torch.Tensor | None:
    """A view of a map's weight, oriented [out, in, ...], None for other modules."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() < 2 or isinstance(module, nn.Embedding):
        return None
    if type(module).__name__ == "Conv1D":
        return weight.t()
    return weight


def _columns(block: NeuronSite, gone: Sequence[int]) -> list[int]:
    channels = block.projections[0].channels
    return sorted(position for neuron in gone for position in channels[neuron])


def _silenced(model: nn.Module, path: str, columns: Sequence[Sequence[int]], case: Case) -> bool:
    """Silences columns of one map, per call where several blocks call it; says whether that was possible."""
    module = model.get_submodule(path)
    if len(columns) == 1 or len({tuple(gone) for gone in columns}) == 1:
        with torch.no_grad():
            weight = weight_of(module)
            assert weight is not None
            weight[:, list(columns[0])] = 0.0
        return True
    calls: list[int] = []
    hook = module.register_forward_pre_hook(lambda *_: calls.append(0))
    outputs(model, case, case.feeds[0])
    hook.remove()
    if len(calls) != len(columns):
        return False
    axis = 1 if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) else -1
    done = 0

    def mask(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        nonlocal done
        source = args[0].clone()
        source.movedim(axis, -1)[..., list(columns[done % len(columns)])] = 0.0
        done += 1
        return (source, *args[1:])

    module.register_forward_pre_hook(mask)
    return True
