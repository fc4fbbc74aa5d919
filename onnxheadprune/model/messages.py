"""Protobuf messages: copies, and repeated fields with other items."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from google.protobuf.message import Message

AnyMessage = TypeVar("AnyMessage", bound=Message)


def copied(message: AnyMessage) -> AnyMessage:
    """A copy of a message."""
    copy: AnyMessage = type(message)()
    copy.CopyFrom(message)
    return copy


def replace_all(field: Any, items: Iterable[Any]) -> None:
    """Give a repeated field other items, which may be some of its own."""
    kept = [item if isinstance(item, str) else copied(item) for item in items]
    del field[:]
    field.extend(kept)


def keep(field: Any, is_kept: Callable[[Any], bool]) -> None:
    """Drop items of a repeated field, without a copy of the others."""
    for position in reversed(range(len(field))):
        if not is_kept(field[position]):
            del field[position]
