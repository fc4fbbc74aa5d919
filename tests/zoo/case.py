"""What one architecture of the zoo is: how it is built, fed and run, and where its heads are summed up."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from tests.zoo.runs import Arrays

if TYPE_CHECKING:
    from tests.zoo.attributes import Heads

Feed = Mapping[str, torch.Tensor]
Expect = Literal["exact", "refused", "no-site"]
HeadSet = Sequence[Sequence[int]]
"""Query heads to remove, per projection."""


class BadCaseError(Exception):
    """The case describes its model wrongly, or its heads do not matter enough to test with."""


@dataclass(frozen=True)
class Projection:
    """One execution of an output projection; a module that runs several times (ALBERT) is listed once for each.

    Attributes:
        path: of the module in the model.
        num_heads: query heads.
        head_size: input columns of the projection per query head.
        kv_num_heads: key/value heads; query head ``h`` belongs to ``h // (num_heads // kv)``.
        tied_to: index of an earlier projection of the same attention core, which loses the same heads.
        head_minor: whether columns are laid out ``[head_size, num_heads]``, not the other way round.
    """

    path: str
    num_heads: int
    head_size: int
    kv_num_heads: int
    tied_to: int | None = None
    head_minor: bool = False

    def columns(self, heads: Sequence[int]) -> list[int]:
        """Return the projection's input columns that belong to ``heads``."""
        if self.head_minor:
            return [d * self.num_heads + h for h in heads for d in range(self.head_size)]
        return [h * self.head_size + d for h in heads for d in range(self.head_size)]

    @property
    def groups(self) -> list[list[int]]:
        """The smallest sets of heads that may go alone: KV groups, or query heads where there is one KV head."""
        ratio = self.num_heads // self.kv_num_heads if self.kv_num_heads > 1 else 1
        return [list(range(first, first + ratio)) for first in range(0, self.num_heads, ratio)]


@dataclass(frozen=True)
class Cache:
    """One past/present pair; ``axis`` is its key/value head axis, ``projection`` its site."""

    past: str
    present: str
    axis: int
    projection: int


@dataclass(frozen=True)
class Case:
    """One architecture.

    Attributes:
        name: unique, usable as a file name.
        family: what it is listed under.
        builder: returns the model; called under a seed derived from ``name``. Its ``forward`` takes the inputs
            positionally and returns a tensor or a tuple of tensors.
        feeds: the first one is exported with; the last one has batch 1 where the batch is dynamic.
        outputs: names of the graph's outputs; none where they are to be called ``out``, ``out1`` and so on.
        dynamic_axes: per input and output, the names of its dynamic axes.
        rules: where its modules say their heads.
        projections: the output projections in order of execution, once the model is built.
        package: the distribution that it is from, as pip calls it; "" for those of the zoo.
        tolerance: largest error allowed, relative to the largest magnitude of the output.
        expect: what pruning should answer.
        caches: the past/present pairs.
        fusion: model type for ONNX Runtime's transformer optimizer, where it claims one.
        note: what is odd about it, for readers of the table.
    """

    name: str
    family: str
    builder: Callable[[], nn.Module]
    feeds: tuple[Feed, ...]
    outputs: tuple[str, ...]
    dynamic_axes: Mapping[str, Mapping[int, str]]
    rules: tuple[Heads, ...] = ()
    projections: tuple[Projection, ...] = ()
    package: str = ""
    tolerance: float = 2e-5
    expect: Expect = "exact"
    caches: tuple[Cache, ...] = ()
    fusion: str | None = None
    note: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in the order of ``forward``."""
        return tuple(self.feeds[0])

    def arrays(self, feed: int) -> Arrays:
        """Return the inputs of a feed."""
        return {name: tensor.numpy() for name, tensor in self.feeds[feed].items()}

    def run(self, model: nn.Module, feed: int = 0) -> tuple[torch.Tensor, ...]:
        """Return the outputs of a model."""
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries about deprecated calls
            # Clones: a cache may be updated in place.
            result = model(*(tensor.clone() for tensor in self.feeds[feed].values()))
        return (result,) if isinstance(result, torch.Tensor) else tuple(result)

    def outcome(self, model: nn.Module, feed: int = 0) -> Arrays:
        """Return the named outputs of a model, as float32."""
        values = self.run(model, feed)
        if len(values) != len(self.outputs):
            raise BadCaseError(f"{len(values)} outputs, but {len(self.outputs)} names")
        return {name: value.float().numpy() for name, value in zip(self.outputs, values, strict=True)}


def weight_of(module: nn.Module) -> torch.Tensor | None:
    """Return a view of a linear layer's weight, oriented ``[out, in, ...]``, None for other modules."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() < 2 or isinstance(module, nn.Embedding):
        return None
    return weight.t() if type(module).__name__ == "Conv1D" else weight


def projection_weight(module: nn.Module) -> torch.Tensor:
    """Return a view of an output projection's weight, oriented ``[out, in]``."""
    # nn.MultiheadAttention and its imitators hand out_proj's weight to a function.
    module = getattr(module, "out_proj", module)
    if not hasattr(module, "weight"):  # torchvision's windows and CLIP's pooling do the same
        module = getattr(module, "proj", None) or getattr(module, "c_proj", module)
    weight = module.o if type(module).__name__ == "XLNetRelativeAttention" else weight_of(module)
    assert isinstance(weight, torch.Tensor)
    return weight.flatten(1) if weight.dim() > 2 else weight
