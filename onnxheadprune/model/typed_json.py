"""JSON documents as dataclasses: the types of the fields say how each is written, and what is read.

Anybody can write a document, so nothing in one is converted: a field has the type that this tool writes, lies within
its bounds and is there once, and no other field is there. What is not so is a `FieldError` with the path of the field.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import json
import math
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from onnxheadprune.model.documents import parse_json

Function = TypeVar("Function", bound=Callable[..., Any])

MAX_TEXT = 2**20
"""Characters of a string; the ranges of a hundred thousand units need as many."""
_SHOWN = 60


class FieldError(ValueError):
    """A document is not of its type; the message begins with the path of the field."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path.removeprefix('.')}: {reason}" if path else reason)
        self.reason, self.path = reason, path


# Marks of types, in `Annotated`


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included."""

    least: float
    most: float

    def __call__(self, value: float) -> None:
        """Refuse a number beyond the bounds."""
        if not self.least <= value <= self.most:
            raise ValueError(f"{shown(value)} is not a number from {self.least} to {self.most}")


@dataclass(frozen=True)
class Key:
    """The name of a field in the document, where this is another."""

    name: str


@dataclass(frozen=True)
class Spelled:
    """A value that is written as one of another type; `read` raises ValueError for what `write` does not write."""

    kind: Any
    write: Callable[[Any], Any]
    read: Callable[[Any], Any] = lambda content: content


@dataclass(frozen=True)
class Distinct:
    """Elements of a list that differ, or differ in an attribute."""

    by: str = ""

    def __call__(self, items: Any) -> None:
        """Refuse an element that is there twice."""
        seen = set()
        for item in items:
            key = getattr(item, self.by) if self.by else item
            if key in seen:
                raise ValueError(f"{shown(key)} is listed more than once")
            seen.add(key)


def nonempty(value: Any) -> None:
    """Refuse a name or list that is empty."""
    if not value:
        raise ValueError("it is empty")


LONG = "long"
"""Mark of a string of any length."""
HIDDEN = "hidden"
"""Mark of a field that is in no document; it needs a default where these are read."""
OPTIONAL = "optional"
"""Mark of a field with a default that a document may leave out, since people write it, too."""

Count: TypeAlias = Annotated[int, Between(0, 2**31)]
"""Of samples, steps of training and turns of a loop; more than anybody has run."""
Size: TypeAlias = Annotated[int, Between(0, 2**63 - 1)]
"""Of elements and bytes, and positions among them."""
Name: TypeAlias = Annotated[str, nonempty]
Seconds: TypeAlias = Annotated[float, Between(0, 2**31)]
OR_NULL = Spelled(Any, lambda text: text or None, lambda content: content or "")
"""Mark of a text that is null where it is empty."""


PROPERTY = "property"


def written(key: str = "") -> Callable[[Function], Function]:
    """Write a property or method, too, behind the fields; what a document says of it is not read."""

    def mark(function: Function) -> Function:
        function.member = Member(key or function.__name__, function.__name__, Any, PROPERTY)  # type: ignore[attr-defined]
        return function

    return mark


class Member(NamedTuple):
    """A field of a document: its key, its attribute with the type, and a mark."""

    key: str
    name: str
    hint: Any
    mark: str = ""


class _Unknown:
    """The type of a field whose annotation is imported for type checkers only: written by its value, never read."""


class _Names(dict[str, Any]):
    """The names in the modules of a class and its bases."""

    def __init__(self, kind: type) -> None:
        modules = (vars(sys.modules[base.__module__]) for base in reversed(kind.__mro__))
        super().__init__(item for module in modules for item in module.items())

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, _Unknown)


@functools.cache
def members(kind: type) -> tuple[Member, ...]:
    """The fields of the documents of a dataclass, in their order."""
    hints = get_type_hints(kind, localns=_Names(kind), include_extras=True)
    every: list[Member] = []
    for name in (field.name for field in dataclasses.fields(kind) if field.init):
        marks = getattr(hints[name], "__metadata__", ())
        key = next((mark.name for mark in marks if isinstance(mark, Key)), name)
        mark = next((mark for mark in marks if mark in (HIDDEN, OPTIONAL)), "")
        if mark != HIDDEN:
            every.append(Member(key, name, hints[name], mark))
    properties = {name: item for base in reversed(kind.__mro__) for name, item in vars(base).items()}
    functions = (getattr(item, "fget", item) for item in properties.values())
    return (*every, *(function.member for function in functions if hasattr(function, "member")))


class JsonObject:
    """A dataclass that can be written as a JSON object."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return _write_object(self)


def document_of(value: Any, hint: Any = Any) -> Any:
    """JSON-ready data of a value, by its type or the annotation of its field."""
    return _codec(hint).write(value)


def read_document(hint: Any, content: Any) -> Any:
    """The value of a type that a document holds.

    Raises:
        FieldError: if it is not what `document_of` makes of one.
    """
    return _codec(hint).read(content)


def parsed(hint: Any, text: str) -> Any:
    """The value of a type that a text holds.

    Raises:
        ValueError: if it is not what `json_text` makes of the document of one.
    """
    return read_document(hint, parse_json(text, once=True))


def json_text(document: Any, *, indent: int | None = None, ascii_only: bool = True, nan: bool = False) -> str:
    """A document as it is stored; NaN and infinities, which JSON lacks, are an error without `nan`."""
    return json.dumps(document, indent=indent, ensure_ascii=ascii_only, allow_nan=nan)


def shown(value: object) -> str:
    """A value in an error message, shortened."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a JSON object"
    # A number may have more digits than Python writes out.
    spelled = "a huge number" if isinstance(value, int) and abs(value) >= 2**64 else repr(value)
    return spelled if len(spelled) <= _SHOWN else f"{spelled[:_SHOWN]}..."


# Readers and writers of types


class _Codec(NamedTuple):
    """The reader and the writer of a type."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any]


@functools.cache
def _codec(hint: Any) -> _Codec:
    """The reader and the writer of a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _marked(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return _of_union(arguments)
    if origin is Literal:
        return _Codec(functools.partial(_one_of, arguments), _same)
    if origin in (tuple, list, set, frozenset):
        return _of_items(origin, arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _of_mapping(*arguments)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _Codec(functools.partial(_read_object, hint), _write_any)
    readers: dict[Any, Callable[[Any], Any]] = {
        Any: _same,
        bool: _read_bool,
        int: _read_int,
        float: _read_float,
        str: _read_str,
        type(None): _read_none,
    }
    return _Codec(readers.get(hint, _refuse), _write_any)


def _same(value: Any) -> Any:
    return value


def _refuse(content: Any) -> Any:
    raise TypeError("a document with a field of this type can only be written")


def _write_any(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        own: Any = getattr(type(value), "to_dict", JsonObject.to_dict)
        # A class whose document has another form writes it itself.
        return _write_object(value) if own is JsonObject.to_dict else own(value)
    if isinstance(value, Mapping):
        return {str(key): _write_any(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return list(map(_write_any, value))
    return value.value if isinstance(value, Enum) else value


def _write_object(value: Any) -> dict[str, Any]:
    kind: Any = type(value)
    found: dict[str, Any] = {}
    for item in members(kind):
        content = getattr(value, item.name)
        if item.mark == PROPERTY and callable(content):
            content = content()
        found[item.key] = document_of(content, item.hint)
    return found


def _marked(hint: Any, marks: tuple[Any, ...]) -> _Codec:
    checks = [mark for mark in marks if callable(mark)]
    spelled = next((mark for mark in marks if isinstance(mark, Spelled)), Spelled(hint, _same))
    codec = _codec(spelled.kind)
    if LONG in marks:
        codec = _Codec(functools.partial(_read_str, most=sys.maxsize), _same)

    def read(content: Any) -> Any:
        value = spelled.read(codec.read(content))
        for check in checks:
            check(value)
        return value

    return _Codec(read, lambda value: codec.write(spelled.write(value)))


def _of_union(kinds: tuple[Any, ...]) -> _Codec:
    # A whole number is one before it is a float, in whichever order a union names the two.
    some = sorted((kind for kind in kinds if kind is not type(None)), key=lambda kind: "float" in str(kind))
    codecs = list(map(_codec, some))

    def read(content: Any) -> Any:
        if content is None and len(some) < len(kinds):
            return None
        errors = []
        for codec in codecs:
            try:
                return codec.read(content)
            except ValueError as error:
                errors.append(error)
        raise errors[0] if len(errors) == 1 else FieldError(" and ".join(dict.fromkeys(map(str, errors))))

    def write(value: Any) -> Any:
        return None if value is None else (codecs[0].write if len(some) == 1 else _write_any)(value)

    return _Codec(read, write)


def _of_items(kind: Any, arguments: tuple[Any, ...]) -> _Codec:
    each = [_codec(item) for item in arguments if item is not Ellipsis]
    fixed = kind is tuple and Ellipsis not in arguments

    def read(content: Any) -> Any:
        if not isinstance(content, list):
            raise FieldError(f"{shown(content)} is not a list")
        if fixed and len(content) != len(each):
            raise FieldError(f"it has {len(content)} elements, not {len(each)}")
        readers = each if fixed else each * len(content)
        items = [
            at(f"[{place}]", codec.read, item)
            for place, (codec, item) in enumerate(zip(readers, content, strict=True))
        ]
        if kind in (set, frozenset):
            Distinct()(items)
        return kind(items)

    def write(value: Any) -> Any:
        items = sorted(value) if kind in (set, frozenset) else list(value)
        return [
            codec.write(item) for codec, item in zip(each if fixed else each * len(items), items, strict=True)
        ]

    return _Codec(read, write)


def _of_mapping(key: Any, value: Any) -> _Codec:
    keys, values = _codec(key), _codec(value)
    numbered = key is int

    def name(text: str) -> Any:
        if not numbered:
            return keys.read(text)
        if not (text.isascii() and text.isdigit() and text == str(int(text[:19]))):
            raise FieldError(f"{shown(text)} is not a number")
        return int(text)

    def read(content: Any) -> Any:
        if not isinstance(content, dict):
            raise FieldError(f"{shown(content)} is not a JSON object")
        return {name(text): at(f".{text[:_SHOWN]}", values.read, item) for text, item in content.items()}

    return _Codec(read, lambda value: {str(name): values.write(item) for name, item in value.items()})


def _read_object(kind: Any, content: Any) -> Any:
    if not isinstance(content, dict):
        raise FieldError(f"{shown(content)} is not a JSON object")
    left, values = dict(content), {}
    for item in members(kind):
        if item.mark == PROPERTY:
            left.pop(item.key, None)
        elif item.key in left:
            values[item.name] = at(f".{item.key}", _codec(item.hint).read, left.pop(item.key))
        elif item.mark != OPTIONAL:
            raise FieldError(f"the field {item.key!r} is missing")
    if left:
        raise FieldError(f"the field {shown(next(iter(left)))} is unknown")
    return kind(**values)


def at(place: str, read: Callable[[Any], Any], content: Any) -> Any:
    """Read the content at a place of a document; errors get the place in front of their path."""
    try:
        return read(content)
    except FieldError as error:
        raise FieldError(error.reason, f"{place}{error.path}") from error
    except ValueError as error:
        raise FieldError(str(error), place) from error


def _one_of(known: tuple[Any, ...], value: Any) -> Any:
    for item in known:
        if type(value) is type(item) and value == item:
            return item
    raise FieldError(f"{shown(value)} is not one of {', '.join(map(repr, known))}")


def _read_none(value: Any) -> None:
    if value is not None:
        raise FieldError(f"{shown(value)} is not null")


def _read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise FieldError(f"{shown(value)} is not true or false")
    return value


def _read_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise FieldError(f"{shown(value)} is not a whole number")
    return value


def _read_float(value: Any) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not abs(value) < math.inf
        or abs(value) > 1e308
    ):
        raise FieldError(f"{shown(value)} is not a finite number")
    return float(value)


def _read_str(value: Any, most: int = MAX_TEXT) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise FieldError(f"{shown(value)} is not a string of up to {most:,} characters")
    return value
