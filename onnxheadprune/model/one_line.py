"""A `repr` of one line for dataclasses, whatever their fields hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar

MOST = 200
"""Characters of a line."""
MOST_OF_ONE = 60
"""Characters of one field."""

_KINDS: set[type[Any]] = set()
DataclassType = TypeVar("DataclassType", bound=type[Any])


def one_line(shown: str = "") -> Callable[[DataclassType], DataclassType]:
    """Give a dataclass a `repr` of one line.

    Args:
        shown: names of fields separated by spaces, the important ones first; all fields if not given.
    """

    def decorate(kind: DataclassType) -> DataclassType:
        names = shown.split() or [item.name for item in fields(kind) if item.repr]

        def represented(self: object) -> str:
            pairs = ((name, _short(getattr(self, name))) for name in names)
            return _cut(
                f"{kind.__name__}({', '.join(f'{name}={text}' for name, text in pairs if text)})", MOST
            )

        kind.__repr__ = represented  # type: ignore[assignment]
        _KINDS.add(kind)
        return kind

    return decorate


def _short(value: object) -> str:
    """A value in few characters, "" for an empty value."""
    if (
        value is None
        or value is False
        or (isinstance(value, (str, Mapping, Sequence, Set)) and not len(value))
    ):
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (str, os.PathLike)):
        return _cut(repr(os.fspath(value)), MOST_OF_ONE)
    if isinstance(value, (bool, int)):
        return str(value)
    if type(value) in _KINDS:
        return _cut(repr(value), MOST_OF_ONE)
    if isinstance(value, (Mapping, Sequence, Set)):
        return (_whole(repr(value)) if _is_plain(value) else "") or f"<{len(value)}>"
    return f"<{type(value).__name__}>"


def _is_plain(value: object) -> bool:
    """Return whether a collection holds numbers and short texts only, also in collections of it."""
    if isinstance(value, Mapping):
        return _is_plain([*value.keys(), *value.values()])
    if isinstance(value, (Sequence, Set)) and not isinstance(value, str):
        return len(value) <= MOST_OF_ONE and all(map(_is_plain, value))
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= MOST_OF_ONE)


def _whole(text: str) -> str:
    """The text if it is short and one line, else ""."""
    return text if len(text) <= MOST_OF_ONE and text.isprintable() else ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 4]}...{text[-1]}"
