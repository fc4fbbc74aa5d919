"""The true head counts of a model, read from the attributes of its modules, never from the tool."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from tests.zoo.case import Projection, projection_weight

FUNCTIONAL = frozenset(
    "MultiheadAttention AttentionPool2d HunyuanDiTAttentionPool ShiftedWindowAttention"
    " ShiftedWindowAttentionV2 ShiftedWindowAttention3d".split()
)
"""Modules that do not call their output projection; `projection_weight` knows where it is."""
HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_heads")
"""Names of attributes."""

Source = str | int | Callable[[Any], int]


@dataclass(frozen=True)
class Heads:
    """How modules of one kind say how many heads they have and where those are summed.

    Attributes:
        kind: Regular expression for the class's whole name; with "", ``out`` are ends of whole paths, each of which
            is an attention of its own.
        out: Paths of the output projections below the module; those that a module lacks are left out. A
            path that ends at a container means its first layer with a weight.
        heads: The number itself, the attribute that holds it (a dotted path may lead to a submodule), or a
            function of the module; None for the attribute of the module around the projection that is called so.
        kv: The same for key/value heads, None where there are as many, or ``heads`` is None.
        within: Regular expression that the module's own path must contain.
        head_minor: As in `Projection`.
        width: How many columns belong to heads, where the projection reads more (a feed-forward block beside
            the attention); those of the heads come first.
        tied: Whether all of ``out`` read one attention core (joint attention); else each has its own.
    """

    kind: str
    out: tuple[str, ...] = ("to_out",)
    heads: Source | None = "heads"
    kv: Source | None = None
    within: str = ""
    head_minor: bool = False
    tied: bool = True
    width: Source | None = None


def at(*out: str, heads: Source | None = None, kv: Source | None = None, **rest: Any) -> tuple[Heads, ...]:
    """Projections whose paths end so; the modules around them say their heads, unless the numbers are given."""
    return (Heads("", out, heads, kv, **rest),)


@dataclass(frozen=True)
class _Place:
    owner: str
    rule: Heads
    num_heads: int
    kv_num_heads: int
    width: int | None


class NoHeadsError(Exception):
    """The rules fit no module that runs: the case or the package has changed."""


def projections(
    model: nn.Module, rules: Sequence[Heads], run: Callable[[], object]
) -> tuple[Projection, ...]:
    """Returns the output projections in order of execution.

    Args:
        model: The whole model.
        rules: The first that fits a module counts.
        run: Runs the model once.

    Raises:
        NoHeadsError: Nothing fits.
    """
    places = dict(_places(model, rules))
    ran: list[str] = []
    hooks = [
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: ran.append(path))
        for path in places
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise NoHeadsError(f"none of {[rule.kind or rule.out for rule in rules]} runs")
    return tuple(_listed(model, places, ran))


def _listed(model: nn.Module, places: dict[str, _Place], ran: Sequence[str]) -> Iterator[Projection]:
    first: dict[tuple[str, int], int] = {}
    times: dict[str, int] = defaultdict(int)
    for index, path in enumerate(ran):
        place = places[path]
        core = first.setdefault((place.owner, times[path]), index) if place.rule.tied else index
        times[path] += 1
        width = projection_weight(model.get_submodule(path)).shape[1]
        yield Projection(
            path,
            place.num_heads,
            (place.width or width) // place.num_heads,
            place.kv_num_heads,
            None if core == index else core,
            place.rule.head_minor,
        )


def _places(model: nn.Module, rules: Sequence[Heads]) -> Iterator[tuple[str, _Place]]:
    for name, module in model.named_modules():
        rule = next((r for r in rules if _fits(r, name, module)), None)
        if rule is None:
            continue
        paths = [path for out in rule.out if (path := _layer(module, out)) is not None] if rule.kind else [""]
        if not paths:
            continue
        if rule.heads is None:
            heads, kv = _around(model, name)
        else:
            heads = kv = _number(module, rule.heads)
        kv = kv if rule.kv is None else _number(module, rule.kv)
        width = None if rule.width is None else _number(module, rule.width)
        for path in paths:
            yield f"{name}.{path}".strip("."), _Place(name, rule, heads, kv, width)


def _fits(rule: Heads, name: str, module: nn.Module) -> bool:
    if not rule.kind:
        return any(f".{name}".endswith(f".{out}") for out in rule.out) and bool(re.search(rule.within, name))
    return bool(re.fullmatch(rule.kind, type(module).__name__) and re.search(rule.within, name))


def _around(model: nn.Module, path: str) -> tuple[int, int]:
    """Heads and key/value heads, as the innermost module around a projection says them that does."""
    parts = path.split(".")
    for end in range(len(parts), -1, -1):
        for module in model.get_submodule(".".join(parts[:end])).modules():
            config = getattr(module, "config", None) if "ttention" in type(module).__name__ else None
            for source in (module, config):
                heads = next((value for name in HEADS if (value := _whole(source, name))), 0)
                if heads:
                    return heads, next((value for name in KV_HEADS if (value := _whole(source, name))), heads)
    raise NoHeadsError(f"nothing around {path} has one of {', '.join(HEADS)}")


def _whole(source: object, name: str) -> int:
    value = getattr(source, name, 0)
    return value if isinstance(value, int) else 0


def _number(module: nn.Module, source: Source) -> int:
    value: object = source(module) if callable(source) else source
    if isinstance(source, str):
        value = module
        for step in source.split("."):
            value = getattr(value, step)
    return int(value)  # type: ignore[call-overload, no-any-return]


def _layer(module: nn.Module, path: str) -> str | None:
    """The path of the layer with a weight at, or first below, `path`; None where there is none."""
    found: object = module
    for step in filter(None, path.split(".")):
        found = getattr(found, step, None)
    if not isinstance(found, nn.Module):
        return None
    for name, child in found.named_modules():
        if _is_layer(child):
            return ".".join(filter(None, (path, name)))
    return None


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a layer, or an attention that hands the layer's weight to a function."""
    weight = getattr(module, "weight", None)
    if type(module).__name__ in FUNCTIONAL and not hasattr(module, "weight"):
        return True
    return getattr(weight, "ndim", 0) >= 2
