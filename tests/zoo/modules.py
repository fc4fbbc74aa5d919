"""What a module's own attributes tell of layers and MLPs: containers of equal children, and pairs of linear layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from tests.zoo.case import Case, weight_of
from tests.zoo.row import Counts

PAIRS = (
    *(("fc1", "fc2"), ("linear1", "linear2"), ("lin1", "lin2"), ("c_fc", "c_proj"), ("fc_in", "fc_out")),
    *(("up_proj", "down_proj"), ("gate_up_proj", "down_proj"), ("w1", "w2"), ("w12", "w3"), ("wi", "wo")),
    *(("wi_0", "wo"), ("Wi", "Wo"), ("dense1", "dense2"), ("ffn", "ffn_output"), ("net.0.proj", "net.2")),
    *(("dense_h_to_4h", "dense_4h_to_h"), ("intermediate.dense", "output.dense"), ("layer_1", "layer_2")),
    *(("intermediate_dense", "output_dense"), ("input_linear", "output_linear"), ("mlp.0", "mlp.2")),
)
"""Attributes that hold the first and the last linear layer of an MLP."""
OTHERS = ("SE", "Squeeze", "pos", "cpb", "bias")
"""What channel gates and embeddings of positions are called, whose layers are called like those of MLPs."""
EXPERTS = ("expert", "moe", "mixture")
"""What classes are called whose MLPs are stored in one tensor, or run for some tokens alone."""


def counts_of(model: nn.Module, case: Case) -> Counts:
    """Return the length of each stack with attention, and the number of MLPs in these; None where unknown.

    Args:
        model: the module.
        case: its inputs and output projections.
    """
    stacks = stacks_of(model, case)
    lasts = {path for path in _lasts(model) if any(path.startswith(f"{stack}.") for stack in stacks)}
    calls = calls_of(model, case, lasts)
    layers = [len(list(model.get_submodule(stack).children())) for stack in stacks]
    experts = any(word in type(item).__name__.lower() for item in model.modules() for word in EXPERTS)
    blocks = sum(calls[path] for path in lasts)
    return Counts(layers=(*sorted(layers),) or None, blocks=None if experts else blocks or None)


def stacks_of(model: nn.Module, case: Case) -> list[str]:
    """Return the paths of the containers of layers with attention, in order of execution."""
    paths = dict.fromkeys(item.path for item in case.projections)
    found = (_stack(model, path, paths) for path in paths)
    return list(dict.fromkeys(path for path in found if path is not None))


def _lasts(model: nn.Module) -> set[str]:
    """Return the paths of the last linear layers of MLPs; those without attributes are found where none has any."""
    found, written = set(), set()
    for path, module in model.named_modules():
        if any(word in f"{path} {type(module).__name__}" for word in OTHERS):
            continue
        pairs = (pair for pair in PAIRS if all(_at(module, name) is not None for name in pair))
        if (pair := next(pairs, None)) is not None:
            found.add(f"{path}.{pair[1]}".lstrip("."))
        if isinstance(module, nn.Sequential) and (last := _written_out(module)):
            written.add(f"{path}.{last}".lstrip("."))
    return found or written


def _at(module: nn.Module, path: str) -> nn.Module | None:
    for part in path.split("."):
        children = dict(module.named_children())
        if part not in children:
            return None
        module = children[part]
    return module if weight_of(module) is not None else None


def _written_out(module: nn.Sequential) -> str:
    """Return the name of the second of two linear layers that a `Sequential` has, "" where it has not two."""
    linear = [name for name, child in module.named_children() if isinstance(child, nn.Linear)]
    return linear[1] if len(linear) == 2 and len(module) > 2 else ""


def _stack(model: nn.Module, path: str, projections: Collection[str]) -> str | None:
    """Return the innermost container of equal children, most of which attend, that holds a module, as a path.

    Args:
        model: the module.
        path: of an output projection.
        projections: the paths of all.
    """
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        place = ".".join(parts[:end])
        container = model.get_submodule(place)
        if not isinstance(container, nn.ModuleList | nn.Sequential | nn.ModuleDict):
            continue
        names = [name for name, _ in container.named_children()]
        attending = sum(
            any(f"{other}.".startswith(f"{place}.{name}.") for other in projections) for name in names
        )
        if len({type(child) for child in container.children()}) == 1 and 2 * attending > len(names):
            return place
    return None


def calls_of(model: nn.Module, case: Case, paths: Iterable[str]) -> dict[str, int]:
    """Return how often modules run on the first feed."""
    calls = dict.fromkeys(paths, 0)
    hooks = [model.get_submodule(path).register_forward_hook(_counting(calls, path)) for path in calls]
    case.run(model)
    for hook in hooks:
        hook.remove()
    return calls


def _counting(calls: dict[str, int], path: str) -> Any:
    def count(*_: Any) -> None:
        calls[path] += 1

    return count
