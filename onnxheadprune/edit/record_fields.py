"""Metadata entries of this tool, read strictly.

Anybody can write one, so nothing in it is converted: a field has the type that this tool writes, lies within its bounds
and is there once. What is not so is a `ValueError` with a sentence, of which `Entry.read` makes a `ModelError` that
names the entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.documents import parse_json

Read = TypeVar("Read")
Written = TypeVar("Written")
Reader: TypeAlias = Callable[[Any], Read]

MAX_COUNT = 2**31
"""Of samples, steps of training and turns of a loop; more than anybody has run."""
MAX_TEXT = 2**20
"""Characters of a string; the ranges of a hundred thousand units need as many."""
_SHOWN = 60


@dataclass(frozen=True)
class Entry(Generic[Read, Written]):
    """An entry in the metadata of models: its name, and how it is read and written."""

    key: str  # the name
    newest: int  # the newest version that is understood here; an entry without one is of version 1
    absent: Read  # the record of a model without the entry
    take: Callable[[Fields, int], Read]  # makes the record of the entry's fields and its version
    # the fields of what is recorded, with the version if it is not the newest
    fields: Callable[[Written], Mapping[str, object]]

    def text(self, record: Written) -> str:
        """The entry as it is stored."""
        return json.dumps({"version": self.newest, **self.fields(record)})

    def read(self, model: ModelProto) -> Read:
        """The record of a model."""
        entries = [item.value for item in model.metadata_props if item.key == self.key]
        if not entries:
            return self.absent
        unreadable = f"the metadata entry {self.key} cannot be read"
        if len(entries) > 1:
            raise ModelError(f"{unreadable}: it is there {len(entries)} times")
        try:
            content = parse_json(entries[0], once=True)
            with Fields(content) as fields:
                version = fields.take("version", _plain) if "version" in fields else 1
                if (
                    isinstance(version, bool)
                    or not isinstance(version, int)
                    or not 1 <= version <= self.newest
                ):
                    raise ModelError(
                        f"the metadata entry {self.key} is of version {shown(version)}, and this version of"
                        f" onnxheadprune reads up to {self.newest}; use the version that wrote the model, or a newer"
                        " one"
                    )
                return self.take(fields, version)
        except ValueError as error:
            raise ModelError(f"{unreadable}: {error}") from error


def _plain(value: object) -> object:
    return value


class Fields:
    """A JSON object of a record as a context manager: within it fields are taken, and at its end none may be left.

    >>> with Fields({"index": 3, "name": "encoder"}) as fields:
    ...     fields.take("index", whole(0, 9)), fields.take("name", text)
    (3, 'encoder')
    """

    def __init__(self, content: object) -> None:
        """Raise ValueError for what is no JSON object."""
        if not isinstance(content, dict):
            raise ValueError(f"{shown(content)} is not a JSON object")
        self._left: dict[str, Any] = dict(content)

    def __enter__(self) -> Fields:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None and self._left:
            raise ValueError(f"the field {shown(next(iter(self._left)))} is unknown")

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, read: Reader[Read]) -> Read:
        """The value of a field."""
        if name not in self._left:
            raise ValueError(f"the field {name!r} is missing")
        try:
            return read(self._left.pop(name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def whole(least: int, most: int) -> Reader[int]:
    """A whole number within bounds, both included."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{shown(value)} is not a whole number from {least} to {most}")
        return value

    return read


def text(value: object) -> str:
    """A string."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"{shown(value)} is not a string of up to {MAX_TEXT:,} characters")
    return value


def name(value: object) -> str:
    """A string that is not empty."""
    if value == "":
        raise ValueError("the name is empty")
    return text(value)


def one_of(known: Iterable[Read]) -> Reader[Read]:
    """One of these values, and of their type: in Python True equals 1."""
    values = tuple(known)

    def read(value: Any) -> Read:
        for item in values:
            if type(value) is type(item) and value == item:
                return item
        raise ValueError(f"{shown(value)} is not one of {', '.join(map(repr, values))}")

    return read


def optional(read: Reader[Read]) -> Reader[Read | None]:
    """A reader that takes what `read` takes, or null."""
    return lambda value: None if value is None else read(value)


def several(
    read: Reader[Read], key: Callable[[Read], object] = lambda item: item
) -> Reader[tuple[Read, ...]]:
    """A list whose elements differ."""

    def read_all(value: object) -> tuple[Read, ...]:
        if not isinstance(value, list):
            raise ValueError(f"{shown(value)} is not a list")
        items = tuple(map(read, value))
        _check_once(map(key, items))
        return items

    return read_all


def names(value: object) -> tuple[str, ...]:
    """Names, each once. Earlier versions list a name as often as branches of a merged decoder have it."""
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)} is not a list")
    return tuple(dict.fromkeys(map(name, value)))


def mapping(read: Callable[[str, Any], Read]) -> Reader[Mapping[str, Read]]:
    """A JSON object of any names; `read` takes the name and the value."""

    def read_all(value: object) -> Mapping[str, Read]:
        if not isinstance(value, dict):
            raise ValueError(f"{shown(value)} is not a JSON object")
        return {name(key): read(key, item) for key, item in value.items()}

    return read_all


def shown(value: object) -> str:
    """A value in an error message, shortened."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a JSON object"
    # A number may have more digits than Python writes out.
    spelled = "a huge number" if isinstance(value, int) and abs(value) >= 2**64 else repr(value)
    return spelled if len(spelled) <= _SHOWN else f"{spelled[:_SHOWN]}..."


def _check_once(keys: Iterator[object]) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"{shown(key)} is listed more than once")
        seen.add(key)
