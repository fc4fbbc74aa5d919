"""Wrong documents by the declarations of their types: each field missing, of another type, out of its bounds."""

from __future__ import annotations

import copy
import dataclasses
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from onnxheadprune.model.typed_json import (
    LONG,
    OPTIONAL,
    PROPERTY,
    Between,
    Distinct,
    Spelled,
    members,
    nonempty,
)

Path = tuple[Any, ...]
Change = Callable[[Any, Any], None]
KINDS: Mapping[str, Any] = {
    "null": None,
    "bool": True,
    "int": 3,
    "float": 1.5,
    "str": "evil",
    "list": [],
    "dict": {},
}
JSON_KINDS = {bool: {"bool"}, int: {"int"}, float: {"int", "float"}, str: {"str"}, type(None): {"null"}}
TOO_LONG = "a" * (2**20 + 1)


def wrong_documents(hint: Any, document: Any) -> Iterator[tuple[str, Any]]:
    """One wrong value at a time in a document of a type, each with its path."""
    for path, what, change in _changes(hint, document, ()):
        made = {"": copy.deepcopy(document)}
        *way, last = ("", *path)
        place: Any = made
        for key in way:
            place = place[key]
        change(place, last)
        yield f"{'.'.join(map(str, path))} {what}", made[""]


def _set(value: Any) -> Change:
    return lambda place, key: place.__setitem__(key, value)


def _changes(hint: Any, content: Any, path: Path) -> Iterator[tuple[Path, str, Change]]:
    hint, marks = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
    spelled = next((mark for mark in marks if isinstance(mark, Spelled)), None)
    if spelled is not None and spelled.kind is Any:
        return
    if spelled is not None:
        hint = spelled.kind
        yield path, "is spelled otherwise", _set("evil")
    accepted = _json_kinds(hint)
    for kind, value in KINDS.items():
        if kind not in accepted and hint is not Any:
            yield path, f"is of type {kind}", _set(value)
    for mark in marks:
        if isinstance(mark, Between):
            yield path, "is too small", _set(mark.least - 1)
            yield path, "is too large", _set(mark.most + 1)
        if isinstance(mark, Distinct) and content:
            yield path, "has the first twice", lambda place, key: place[key].append(place[key][0])
        if mark is nonempty:
            yield path, "is empty", _set(type(content)())
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if content is not None and len(rest := [kind for kind in arguments if kind is not type(None)]) == 1:
            # What one of several types refuses another one may take.
            known = {f"is of type {kind}" for kind in accepted}
            yield from (
                item for item in _changes(rest[0], content, path) if item[0] != path or item[1] not in known
            )
    elif hint is int or hint is float:
        for number in (2**80, -(2**80), math.nan, math.inf) if hint is int else (math.nan, math.inf, 10**400):
            yield path, f"is {number:.0e}" if number < 2**100 else "is huge", _set(number)
    elif hint is str and LONG not in marks:
        yield path, "is too long", _set(TOO_LONG)
    elif origin is tuple:
        if Ellipsis not in arguments:
            yield path, "is too short", lambda place, key: place[key].pop()
        for at, item in enumerate(content):
            yield from _changes(arguments[0 if Ellipsis in arguments else at], item, (*path, at))
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        for key, item in content.items():
            yield from _changes(arguments[1], item, (*path, key))
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield from _of_object(hint, content, path)


def _of_object(kind: type, content: Any, path: Path) -> Iterator[tuple[Path, str, Change]]:
    yield path, "has another field", lambda place, key: place[key].update(evil="evil")
    for item in members(kind):
        if item.mark == PROPERTY:
            continue
        if item.mark != OPTIONAL:
            yield (*path, item.key), "is missing", lambda place, key: place.pop(key)
        yield from _changes(item.hint, content[item.key], (*path, item.key))


def _json_kinds(hint: Any) -> set[str]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        spelled = next((mark for mark in arguments[1:] if isinstance(mark, Spelled)), None)
        return _json_kinds(arguments[0] if spelled is None else spelled.kind)
    if origin in (Union, types.UnionType):
        return set().union(*map(_json_kinds, arguments))
    if origin is Literal:
        return set().union(*(JSON_KINDS[type(item)] for item in arguments))
    if hint is Any:
        return set(KINDS)
    return JSON_KINDS.get(hint) or ({"list"} if origin in (tuple, list, set) else {"dict"})
