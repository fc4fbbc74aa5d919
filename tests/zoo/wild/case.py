"""A case of a package that is not ours: built by name, its heads read from the built module."""

from __future__ import annotations

import importlib.metadata
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.case import Case, Expect, Feed
from tests.zoo.init import spread
from tests.zoo.restructure import NotApplicableError
from tests.zoo.wild.rules import Heads, projections


class Called(nn.Module):
    """Calls a model with its inputs, by name where names are given, and returns its first tensor or ``pick``."""

    def __init__(
        self, model: nn.Module, keys: tuple[str, ...] | None, pick: Callable[[Any], Any], **fixed: Any
    ) -> None:
        super().__init__()
        self.model = model
        self._keys, self._pick, self._fixed = keys, pick, fixed

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Runs the model."""
        if self._keys is None:
            out = self.model(*inputs, **self._fixed)
        else:
            out = self.model(**dict(zip(self._keys, inputs, strict=True)), **self._fixed)
        picked: torch.Tensor | tuple[torch.Tensor, ...] = self._pick(out)
        return picked


def first(out: Any) -> Any:
    """The first tensor of an output, however deep."""
    while not isinstance(out, torch.Tensor):
        out = next(iter(out.values() if isinstance(out, Mapping) else out))
    return out


@dataclass(frozen=True)
class Wild:
    """One architecture of an installed package.

    Attributes:
        name: Unique, starts with the package.
        package: The distribution, as pip calls it.
        build: Returns the module; called under a seed derived from ``name``.
        inputs: A tensor per input, by name; the batch comes first.
        rules: How the modules say their heads.
        by_name: Whether inputs are passed by their names.
        dynamic: Whether the batch is dynamic.
        shapes: Further dynamic axes per input, ``{input: {axis: name}}``.
        pick: What of the output is compared.
        fixed: More keywords for the call.
        expect: As in `Case`.
        tolerance: As in `Case`.
        redraw: Whether weights are redrawn so that every head matters.
        note: What is odd about this case.
        known: Reasons why the engine does not find or cut all of it yet, for people; "" where it should.
    """

    name: str
    package: str
    build: Callable[[], nn.Module]
    inputs: Mapping[str, torch.Tensor]
    rules: tuple[Heads, ...]
    by_name: bool = False
    dynamic: bool = True
    shapes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    pick: Callable[[Any], Any] = first
    fixed: Mapping[str, Any] = field(default_factory=dict)
    expect: Expect = "exact"
    tolerance: float = 5e-5
    redraw: bool = True
    note: str = ""

    def resolve(self) -> Case:
        """Builds the module and reads its heads.

        Raises:
            NotApplicableError: The package is not installed.
        """
        try:
            importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            raise NotApplicableError(f"{self.package} is not installed") from None
        torch.manual_seed(zlib.crc32(self.name.encode()))
        model = self._made()
        made = self._feeds()
        listed: tuple[Any, ...] = ()
        outputs: list[torch.Tensor] = []

        def run() -> None:
            with torch.no_grad():
                result = model(*(made[0][name].clone() for name in self.inputs))
            outputs.extend((result,) if isinstance(result, torch.Tensor) else result)

        if self.rules:
            listed = projections(model, self.rules, run)
        else:
            run()
        names = tuple(f"out{i or ''}" for i in range(len(outputs)))
        axes: dict[str, dict[int, str]] = {}
        if self.dynamic:
            axes = {name: {0: "batch", **self.shapes.get(name, {})} for name in (*self.inputs, *names)}
        return Case(
            name=self.name,
            family=self.package,
            builder=lambda: model,
            feeds=made,
            inputs=tuple(self.inputs),
            outputs=names,
            dynamic_axes=axes,
            projections=listed,
            tolerance=self.tolerance,
            expect=self.expect,
            note=self.note,
        )

    def _made(self) -> nn.Module:
        module = self.build()
        if self.redraw:
            spread(module)
        keys = tuple(self.inputs) if self.by_name else None
        return Called(module, keys, self.pick, **self.fixed).eval().requires_grad_(False)

    def _feeds(self) -> tuple[Feed, ...]:
        whole = dict(self.inputs)
        other = {name: _shuffled(value) for name, value in whole.items()}
        if self.dynamic:
            other = {name: value[:1] for name, value in other.items()}
        return whole, other


def _shuffled(value: torch.Tensor) -> torch.Tensor:
    """Another tensor of the same kind: floats are turned round, the rest stays (ids, masks, times)."""
    return value.flip(-1).contiguous() if value.is_floating_point() and value.dim() > 1 else value.clone()


def image(side: int = 32, *, channels: int = 3, batch: int = 2, wide: int | None = None) -> torch.Tensor:
    """A square picture, or one that is ``wide``."""
    return feeds.floats(batch, channels, side, wide or side)


def sequence(length: int, width: int, *, batch: int = 2) -> torch.Tensor:
    """Rows of floats."""
    return feeds.floats(batch, length, width)


def tokens(length: int = 12, *, vocab: int = 50, batch: int = 2) -> torch.Tensor:
    """Token ids."""
    return feeds.ids(batch, length, vocab)
