"""What one architecture of the zoo is, and what silencing its heads means in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

if TYPE_CHECKING:
    from tests.zoo.attributes import Heads

Feed = Mapping[str, torch.Tensor]
DynamicAxes = Mapping[str, Mapping[int, str]]
Expect = Literal["exact", "refused", "no-site"]

NO_CACHES: tuple[Cache, ...] = ()


@dataclass(frozen=True)
class Projection:
    """One execution of an output projection.

    Attributes:
        module_path: The module as ``model.get_submodule`` finds it. A module that runs several
            times in one forward pass (ALBERT) is listed once per execution.
        num_heads: Query heads.
        head_size: Input columns of the projection per query head.
        kv_num_heads: Key/value heads; query head ``h`` belongs to ``h // (num_heads // kv)``.
        tied_to: Index of an earlier projection that reads the same attention core (joint
            text/image attention). Both must lose the same heads.
        head_minor: The columns are laid out ``[head_size, num_heads]``, not the other way round.
    """

    module_path: str
    num_heads: int
    head_size: int
    kv_num_heads: int
    tied_to: int | None = None
    head_minor: bool = False

    def columns(self, heads: Sequence[int]) -> list[int]:
        """Returns the projection's input columns that belong to ``heads``."""
        if self.head_minor:
            return [d * self.num_heads + h for h in heads for d in range(self.head_size)]
        return [h * self.head_size + d for h in heads for d in range(self.head_size)]


@dataclass(frozen=True)
class Cache:
    """One past/present pair; ``axis`` is its key/value head axis, ``projection`` its site."""

    past: str
    present: str
    axis: int
    projection: int


@dataclass(frozen=True)
class Case:
    """One architecture: how to build it, feed it and find its output projections.

    Attributes:
        name: Unique, usable as a file name.
        family: What it is listed under.
        builder: Returns the model in eval mode; called under a seed derived from ``name``. Its
            ``forward`` takes the inputs positionally and returns a tensor or a tuple of tensors.
        feeds: The first one is exported with; the last one has batch 1 where batch is dynamic.
        inputs: Graph input names, in ``forward`` order.
        outputs: Graph output names, in order; none where they are to be called ``out``, ``out1`` and so on.
        dynamic_axes: Per input and output, the names of its dynamic axes.
        projections: The output projections in order of execution.
        rules: Where its modules say their heads: the projections are read from the built module.
        package: The distribution that it is from, as pip calls it; "" for those of the zoo.
        tolerance: Largest error allowed, relative to the largest magnitude of the output.
        expect: What pruning should answer.
        caches: The past/present pairs.
        fusion: Model type for ONNX Runtime's transformer optimizer, where it claims one.
        note: What is odd about this case.
    """

    name: str
    family: str
    builder: Callable[[], nn.Module]
    feeds: tuple[Feed, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dynamic_axes: DynamicAxes
    projections: tuple[Projection, ...] = ()
    rules: tuple[Heads, ...] = ()
    package: str = ""
    tolerance: float = 2e-5
    expect: Expect = "exact"
    caches: tuple[Cache, ...] = field(default=NO_CACHES)
    fusion: str | None = None
    note: str = ""


def projection_weight(module: nn.Module) -> torch.Tensor:
    """Returns a view of an output projection's weight, oriented ``[out, in]``."""
    # nn.MultiheadAttention and its imitators hand out_proj's weight to a function.
    module = getattr(module, "out_proj", module)
    if not hasattr(module, "weight"):  # torchvision's windows and CLIP's pooling do the same
        module = getattr(module, "proj", None) or getattr(module, "c_proj", module)
    weight = module.o if type(module).__name__ == "XLNetRelativeAttention" else module.weight
    assert isinstance(weight, torch.Tensor)
    if type(module).__name__ == "Conv1D":
        return weight.t()
    return weight.flatten(1) if weight.dim() > 2 else weight


def silence(model: nn.Module, projections: Sequence[Projection], heads: Sequence[Sequence[int]]) -> nn.Module:
    """Returns a deep copy of ``model`` in which the given heads contribute nothing.

    The columns of each output projection that read a silenced head are zeroed. A projection that
    runs several times has one weight for all of them, so there its input is masked instead, by
    the count of its calls; so it is where the weight is computed anew from others in each pass.

    Args:
        model: The model, in eval mode; not changed.
        projections: Its output projections in order of execution.
        heads: Query heads to silence, one list per projection.
    """
    silenced = copy.deepcopy(model)
    executions: dict[str, list[list[int]]] = {}
    for projection, gone in zip(projections, heads, strict=True):
        executions.setdefault(projection.module_path, []).append(projection.columns(gone))
    for path, columns in executions.items():
        module = silenced.get_submodule(path)
        if len(columns) == 1 and not is_parametrized(module):
            with torch.no_grad():
                projection_weight(module)[:, columns[0]] = 0.0
        else:
            _mask_calls(module, columns)
    return silenced


def _mask_calls(module: nn.Module, columns: Sequence[Sequence[int]]) -> None:
    calls = 0

    def mask(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        nonlocal calls
        keep = torch.ones(args[0].shape[-1], dtype=args[0].dtype)
        keep[list(columns[calls % len(columns)])] = 0.0
        calls += 1
        return (args[0] * keep, *args[1:])

    module.register_forward_pre_hook(mask)
