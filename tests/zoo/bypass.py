"""PyTorch without some layers: a copy of the module in which each of them returns the state that it was given.

A layer whose residual sum is in the module around it returns zeros.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import nn

from onnxheadprune.attention.sites.site import Site
from tests.zoo.case import Case
from tests.zoo.cuts import NoStateError
from tests.zoo.modules import calls_of, stacks_of

_Call: TypeAlias = tuple[str, int | None]
"""The path of a module, and which of its calls; None means each."""


def bypassed(module: nn.Module, case: Case, layers: Sequence[Site], gone: Iterable[Site]) -> nn.Module | None:
    """A copy in which layers are the identity, None where it is unknown which modules they are.

    Args:
        module: the model.
        case: its inputs and output projections.
        layers: all layers of the graph, in graph order.
        gone: those that are removed.
    """
    places = _places(module, case, layers)
    calls: dict[str, list[int | None]] = defaultdict(list)
    for layer in gone:
        if layer not in places:
            return None
        path, call = places[layer]
        calls[path].append(call)
    branches = _branches(module, case, [path for path, _ in places.values()])
    copied = copy.deepcopy(module)
    for path, some in calls.items():
        container = path.rpartition(".")[0]
        if container not in branches:
            return None
        layer = copied.get_submodule(path)
        # No hook: SqueezeBERT's modules call `forward` themselves.
        layer.forward = _instead(layer, some, branches[container])
    return copied


def _branches(module: nn.Module, case: Case, paths: Iterable[str]) -> Mapping[str, bool]:
    """Whether the layers in each container return what their parent adds to the state, not the state behind them.

    The next layer's input tells; a container is left out where it equals neither.
    """
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
    copied = copy.deepcopy(module)
    for path in dict.fromkeys(paths):
        layer = copied.get_submodule(path)
        layer.forward = _watched(layer.forward, seen[path.rpartition(".")[0]])
    case.run(copied)
    found: dict[str, bool] = {}
    for container, runs in seen.items():
        pairs = [pair for pair in pairwise(runs) if pair[0][0].shape == pair[0][1].shape == pair[1][0].shape]
        if any(torch.equal(output, then) for (_, output), (then, _) in pairs) or len(runs) == 1:
            found[container] = False
        elif any(torch.allclose(given + output, then) for (given, output), (then, _) in pairs):
            found[container] = True
    return found


def _watched(
    forward: Callable[..., Any], seen: list[tuple[torch.Tensor, torch.Tensor]]
) -> Callable[..., Any]:
    def watched(*args: Any, **given: Any) -> Any:
        first = next(_tensors((args, list(given.values())))).clone()
        output = forward(*args, **given)
        seen.append((first, next(_tensors(output)).clone()))
        return output

    return watched


def _places(module: nn.Module, case: Case, layers: Sequence[Site]) -> Mapping[Site, _Call]:
    """The module of each layer: by its name, else by its place, where the module has as many layers."""
    paths = {path for path, item in module.named_modules() if path and _runs(item)}
    named = {layer: _path(layer.name, paths) for layer in layers}
    if not any(named.values()):
        children = [path for stack in stacks_of(module, case) for path in _children(module, stack)]
        named = dict(zip(layers, children, strict=False)) if len(children) == len(layers) else {}
    together: dict[str, list[Site]] = defaultdict(list)
    for layer, path in named.items():
        if path is not None:
            together[path].append(layer)
    calls = calls_of(module, case, together)
    found: dict[Site, _Call] = {}
    for path, some in together.items():
        if len(some) == 1:
            found[some[0]] = path, None
        elif len(some) == calls[path]:  # one module that runs several times is as many layers
            found |= {layer: (path, call) for call, layer in enumerate(some)}
    return found


def _runs(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _path(name: str, paths: Collection[str]) -> str | None:
    """The path of the only module that a name can mean, which may lack or have a part in front."""
    ends = [path for path in paths if f".{path}".endswith(f".{name}") or f".{name}".endswith(f".{path}")]
    longest = [path for path in ends if len(path) == max(map(len, ends))]
    return longest[0] if name and len(longest) == 1 else None


def _children(module: nn.Module, stack: str) -> Iterator[str]:
    yield from (f"{stack}.{name}" for name, _ in module.get_submodule(stack).named_children())


def _instead(module: nn.Module, calls: Collection[int | None], is_branch: bool) -> Callable[..., Any]:
    """A module's `forward` that returns, in some of its calls, the states that it was given, or zeros as a branch."""
    forward, count = module.forward, itertools.count()

    def instead(*args: Any, **given: Any) -> Any:
        this, output = next(count), forward(*args, **given)
        if None not in calls and this not in calls:
            return output
        states = [*_tensors((args, list(given.values())))]
        left = len(states)
        found = _mapped(output, partial(_taken, states))
        if len(states) == left:
            raise NoStateError(f"{type(module).__name__} returns no state of a shape that it was given")
        return _mapped(output, torch.zeros_like) if is_branch else found

    return instead


def _tensors(item: Any) -> Iterator[torch.Tensor]:
    if isinstance(item, torch.Tensor) and item.is_floating_point():
        yield item
    elif isinstance(item, tuple | list | dict):
        for one in item.values() if isinstance(item, dict) else item:
            yield from _tensors(one)


def _taken(states: list[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """The first state of an output's shape, which is taken from the list; the output where there is none."""
    at = next((k for k, state in enumerate(states) if state.shape == output.shape), None)
    return output if at is None else states.pop(at)


def _mapped(item: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The outputs of a module with other tensors in their place."""
    if isinstance(item, torch.Tensor):
        return change(item) if item.is_floating_point() else item
    if isinstance(item, tuple | list):
        return type(item)(_mapped(one, change) for one in item)
    if isinstance(item, dict):
        for key, value in item.items():
            item[key] = _mapped(value, change)
    return item
