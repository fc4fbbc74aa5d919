"""From click's parameters to one typed object per command: here they lose their names in a dict and get types."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeGuard, TypeVar, get_type_hints

Bundle = TypeVar("Bundle")


def bundled(cls: type[Bundle]) -> Callable[[Callable[[Bundle], int]], Callable[..., int]]:
    """A command's function takes its options as one dataclass, whose fields are named as the parameters are.

    A field that is a dataclass itself takes some of the parameters: those of options that belong together.

    Args:
        cls: the dataclass.
    """

    def decorate(work: Callable[[Bundle], int]) -> Callable[..., int]:
        @functools.wraps(work)
        def callback(**values: object) -> int:
            given = _made(cls, values)
            assert not values, f"no field of {cls.__name__} takes {', '.join(values)}"
            return work(given)

        return callback

    return decorate


def _made(cls: type[Bundle], values: dict[str, object]) -> Bundle:
    """The dataclass with the values of its fields, which are taken out of the dict."""
    hints = get_type_hints(cls)
    given: dict[str, object] = {}
    for item in fields(cls):  # type: ignore[arg-type]
        kind = hints[item.name]
        given[item.name] = _made(kind, values) if _is_bundle(kind) else values.pop(item.name)
    return cls(**given)


def _is_bundle(kind: object) -> TypeGuard[type[Any]]:
    return isinstance(kind, type) and is_dataclass(kind)
