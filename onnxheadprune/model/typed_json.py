"""JSON documents as dataclasses: the types of the fields say how each is written, and what is read.

Anybody can write a document, so nothing in one is converted: a field has the type that this tool writes, lies within
its bounds and is there once, and no other field is there. What is not so is a `FieldError` with the path of the field.
"""

from __future__ import annotations

import builtins
import dataclasses
import functools
import json
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
_LARGEST = 1e308


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
    """A field of a document: its key, its attribute with the type, a mark, and how it is spelled."""

    key: str
    name: str
    hint: Any
    mark: str = ""
    spelled: Spelled | None = None


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
        spelled = next((mark for mark in marks if isinstance(mark, Spelled)), None)
        if mark != HIDDEN:
            every.append(Member(key, name, hints[name], mark, spelled))
    properties = {name: item for base in reversed(kind.__mro__) for name, item in vars(base).items()}
    functions = (getattr(item, "fget", getattr(item, "func", item)) for item in properties.values())
    return (*every, *(function.member for function in functions if hasattr(function, "member")))


class JsonObject:
    """A dataclass that can be written as a JSON object."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        found: dict[str, Any] = {}
        kind: Any = type(self)
        for item in members(kind):
            content = getattr(self, item.name)
            if item.mark == PROPERTY and callable(content):
                content = content()
            found[item.key] = document_of(content if item.spelled is None else item.spelled.write(content))
        return found


def document_of(value: Any) -> Any:
    """JSON-ready data of a value."""
    if dataclasses.is_dataclass(value):
        # A class whose document has another form writes it itself.
        own: Any = getattr(type(value), "to_dict", JsonObject.to_dict)
        return own(value)
    if isinstance(value, Mapping):
        return {str(key): document_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(map(document_of, sorted(value) if isinstance(value, (set, frozenset)) else value))
    return value.value if isinstance(value, Enum) else value


def read_document(hint: Any, content: Any) -> Any:
    """The value of a type that a document holds.

    Raises:
        FieldError: if it is not what `document_of` makes of one.
    """
    return _reader(hint)(content)


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


# Readers of types

Reader: TypeAlias = Callable[[Any], Any]


@functools.cache
def _reader(hint: Any) -> Reader:
    """The reader of a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _marked(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return _of_union(arguments)
    if origin is Literal:
        return functools.partial(_one_of, arguments)
    if origin in (tuple, list, set, frozenset):
        return _of_items(origin, arguments)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _of_mapping(*arguments)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return functools.partial(_read_object, hint)
    return _PLAIN.get(hint, _refuse)


def _refuse(content: Any) -> Any:
    raise TypeError("a document with a field of this type can only be written")


def _marked(hint: Any, marks: tuple[Any, ...]) -> Reader:
    checks = [mark for mark in marks if callable(mark)]
    spelled = next((mark for mark in marks if isinstance(mark, Spelled)), None)
    inner = _reader(LONG if LONG in marks else hint if spelled is None else spelled.kind)

    def read(content: Any) -> Any:
        value = inner(content) if spelled is None else spelled.read(inner(content))
        for check in checks:
            check(value)
        return value

    return read


def _of_union(kinds: tuple[Any, ...]) -> Reader:
    # The first type that can read the value is taken: a union names `int` before `float`, which reads integers, too.
    readers = [_reader(kind) for kind in kinds if kind is not type(None)]

    def read(content: Any) -> Any:
        if content is None and len(readers) < len(kinds):
            return None
        errors = []
        for reader in readers:
            try:
                return reader(content)
            except ValueError as error:
                errors.append(error)
        raise errors[0] if len(errors) == 1 else FieldError(" and ".join(dict.fromkeys(map(str, errors))))

    return read


def _of_items(kind: Any, arguments: tuple[Any, ...]) -> Reader:
    each = [_reader(item) for item in arguments if item is not Ellipsis]
    fixed = kind is tuple and Ellipsis not in arguments

    def read(content: Any) -> Any:
        if not isinstance(content, list):
            raise FieldError(f"{shown(content)} is not a list")
        if fixed and len(content) != len(each):
            raise FieldError(f"it has {len(content)} elements, not {len(each)}")
        readers = each if fixed else each * len(content)
        pairs = enumerate(zip(readers, content, strict=True))
        items = [at(f"[{place}]", reader, item) for place, (reader, item) in pairs]
        if kind in (set, frozenset):
            Distinct()(items)
        return kind(items)

    return read


def _of_mapping(key: Any, value: Any) -> Reader:
    keys, values = _reader(key), _reader(value)

    def read(content: Any) -> Any:
        if not isinstance(content, dict):
            raise FieldError(f"{shown(content)} is not a JSON object")
        return {keys(text): at(f".{text[:_SHOWN]}", values, item) for text, item in content.items()}

    return read


def _read_object(kind: Any, content: Any) -> Any:
    if not isinstance(content, dict):
        raise FieldError(f"{shown(content)} is not a JSON object")
    left, values = dict(content), {}
    for item in members(kind):
        if item.mark == PROPERTY:
            left.pop(item.key, None)
        elif item.key in left:
            values[item.name] = at(f".{item.key}", _reader(item.hint), left.pop(item.key))
        elif item.mark != OPTIONAL:
            raise FieldError(f"the field {item.key!r} is missing")
    if left:
        raise FieldError(f"the field {shown(next(iter(left)))} is unknown")
    return kind(**values)


def at(place: str, read: Reader, content: Any) -> Any:
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


def _plain(is_one: Callable[[Any], bool], what: str, made: Reader = lambda value: value) -> Reader:
    """The reader of a plain type of JSON."""

    def read(content: Any) -> Any:
        if not is_one(content):
            raise FieldError(f"{shown(content)} is not {what}")
        return made(content)

    return read


_TEXT = f"a string of up to {MAX_TEXT:,} characters"
_PLAIN: Mapping[Any, Reader] = {
    Any: lambda value: value,
    type(None): _plain(lambda item: item is None, "null"),
    bool: _plain(lambda item: isinstance(item, bool), "true or false"),
    int: _plain(lambda item: type(item) is int and -(2**63) <= item < 2**63, "a whole number"),
    float: _plain(
        lambda item: type(item) in (int, float) and abs(item) <= _LARGEST, "a finite number", float
    ),
    str: _plain(lambda item: isinstance(item, str) and len(item) <= MAX_TEXT, _TEXT),
    LONG: _plain(lambda item: isinstance(item, str), "a string"),
}
