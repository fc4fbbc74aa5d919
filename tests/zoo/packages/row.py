"""A row of the table of packages: a model that others wrote, built by name, its heads read from the built module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import Heads
from tests.zoo.case import Case
from tests.zoo.init import spread

PREFIXES = {
    "fair-esm": "esm",
    "open-clip-torch": "open-clip",
    "openai-whisper": "openai-whisper",
    "python-doctr": "doctr",
    "rtdl-revisiting-models": "rtdl",
    "segment-anything": "sam",
    "torch-geometric": "pyg",
}
"""Names of packages in rows, where they differ."""
OUT = Heads(r"\w*Attention|LocalMHA", ("to_out",), "heads")
MHA = Heads("MultiheadAttention", ("",), "num_heads")


class Called(nn.Module):
    """Calls a model with its inputs, by name where names are given, and returns its first tensor or ``pick``."""

    def __init__(
        self, model: nn.Module, keys: tuple[str, ...] | None, pick: Callable[[Any], Any], **fixed: Any
    ) -> None:
        super().__init__()
        self.model = model
        self._keys, self._pick, self._fixed = keys, pick, fixed

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        if self._keys is None:
            return self._pick(self.model(*inputs, **self._fixed))
        return self._pick(self.model(**dict(zip(self._keys, inputs, strict=True)), **self._fixed))


def first(out: Any) -> Any:
    """The first tensor of an output, however deep."""
    while not isinstance(out, torch.Tensor):
        out = next(iter(out.values() if isinstance(out, Mapping) else out))
    return out


def row(
    name: str,
    package: str,
    make: Callable[[], nn.Module],
    inputs: Mapping[str, torch.Tensor],
    *rules: Heads,
    by_name: bool = False,
    dynamic: bool = True,
    pick: Callable[[Any], Any] = first,
    fixed: Mapping[str, Any] | None = None,
    tolerance: float = 5e-5,
    **rest: Any,
) -> Case:
    """One architecture of an installed package.

    Args:
        name: What is special about it; "" where the package has one model.
        package: The distribution, as pip calls it.
        make: Returns the module; called under a seed derived from the whole name.
        inputs: A tensor per input, by name; the batch comes first.
        *rules: How the modules say their heads.
        by_name: Whether inputs are passed by their names.
        dynamic: Whether the batch is dynamic.
        pick: What of the output is compared.
        fixed: More keywords for the call.
        tolerance: As in `Case`.
        **rest: More fields of `Case`.
    """
    keys = tuple(inputs) if by_name else None
    other = {name: _shuffled(value)[: 1 if dynamic else None] for name, value in inputs.items()}
    prefix = PREFIXES.get(package, package)
    return Case(
        name=f"{prefix}-{name}" if name else prefix,
        family=package,
        builder=lambda: Called(spread(make()), keys, pick, **(fixed or {})),
        feeds=(dict(inputs), other),
        outputs=(),
        dynamic_axes={name: {0: "batch"} for name in inputs} if dynamic else {},
        rules=rules if rules or rest.get("expect") == "no-site" else (OUT,),
        package=package,
        tolerance=tolerance,
        **rest,
    )


def _shuffled(value: torch.Tensor) -> torch.Tensor:
    """Another tensor of the same kind: floats are turned round, the rest stays (ids, masks, times)."""
    return value.flip(-1).contiguous() if value.is_floating_point() and value.dim() > 1 else value.clone()


def of(target: str, *arguments: Any, **options: Any) -> nn.Module:
    """A class of a package, "module:Name", called with its arguments."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)(*arguments, **options)


def new(target: str, *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    """The same, later."""
    return partial(of, target, *arguments, **options)


class Repeated(nn.Module):
    """Calls a module with one tensor three times, as queries, keys and values, and with positions if there are any."""

    def __init__(self, make: Callable[[], nn.Module], pick: Callable[[Any], Any] = lambda out: out) -> None:
        super().__init__()
        self.inner, self.pick = make(), pick

    def forward(self, x: torch.Tensor, *positions: torch.Tensor) -> Any:
        return self.pick(self.inner(x, x, x, *positions))


def image(side: int = 32, *, channels: int = 3, batch: int = 2) -> torch.Tensor:
    """A square picture."""
    return feeds.floats(batch, channels, side, side)


def sequence(length: int, width: int, *, batch: int = 2) -> torch.Tensor:
    """Rows of floats."""
    return feeds.floats(batch, length, width)


def tokens(length: int = 12, *, vocab: int = 50, batch: int = 2) -> torch.Tensor:
    """Token ids."""
    return feeds.ids(batch, length, vocab)
