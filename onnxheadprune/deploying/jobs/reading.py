"""From the file of a job, and the command line's settings, to its typed keys.

A job is YAML of plain values, read with size limits and line numbers: no tags, so all values are numbers, text, lists
and mappings; no anchors, so nothing is expanded; no duplicate keys. Scalars follow YAML 1.2: `no` and `on` are text,
1e-3 is a number.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_type_hints

from pydantic import ValidationError

from onnxheadprune.deploying.jobs.keys import SECTIONS, JobKeys, adapter
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import read_text
from onnxheadprune.settings.setting import Declared, Rule, declared, first_broken
from onnxheadprune.settings.words import option

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
import math
import re
from collections.abc import Iterator
from dataclasses import field
from typing import TypeAlias

import yaml

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
KeyPath: TypeAlias = tuple[str, ...]
"""A place in a job: ("prune", "ratio"); items of lists by their number."""

MOST_BYTES = 2**18
MOST_VALUES = 20_000
MOST_DEEP = 12

_BOOLS = {"true": True, "false": False}
_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]{1,18}", "-+0123456789"),
    ("float", _NUMBER, "-+.0123456789"),
)
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Only makes nodes; plain scalars are resolved by `_RESOLVERS` alone."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(
        f"{_TAG}{_name}", re.compile(rf"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
    )


@dataclass(frozen=True)
class _Source:
    """The contents of a YAML text, with lines."""

    name: str  # its name in errors
    value: Value
    lines: dict[KeyPath, int] = field(default_factory=dict)
    # keys with values from other sources, and the names of these in errors
    elsewhere: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, key: KeyPath) -> str:
        """Return the position of a key, or of the nearest enclosing one: "job.yaml, line 7"."""
        for end in range(len(key), -1, -1):
            if (told := self.elsewhere.get(key[:end])) is not None:
                return told
            if key[:end] in self.lines:
                return f"{self.name}, line {self.lines[key[:end]]}"
        return self.name

    def line(self, key: KeyPath) -> int:
        """The line of a key, or of the nearest enclosing one; 0 for other sources."""
        return next((self.lines[key[:end]] for end in range(len(key), -1, -1) if key[:end] in self.lines), 0)


def read_yaml(text: str, name: str) -> _Source:
    """Read a text."""
    if len(text) > MOST_BYTES:
        raise UsageError(f"{name} is larger than {MOST_BYTES:,} characters, the most that a job has")
    try:
        _require_plain(text, name)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else f"{name}, line {mark.line + 1}"
        raise UsageError(f"{where}: this is no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    source = _Source(name, None)
    return source if node is None else _Source(name, _value(node, (), source), source.lines)


def _require_plain(text: str, name: str) -> None:
    """Check that a text is plain data within the size limits, before it is parsed."""
    depth = count = 0
    for event in yaml.parse(text, Loader=_Loader):
        where = name if event.start_mark is None else f"{name}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise UsageError(f"{where}: a job has no anchors and aliases (& and *); write the values out")
        tag: object = getattr(event, "tag", None)
        if tag is not None:
            raise UsageError(f"{where}: a job has no tags, and {tag!r:.60} is one; write plain values")
        opens = isinstance(event, yaml.CollectionStartEvent)
        depth += opens - isinstance(event, yaml.CollectionEndEvent)
        count += opens or isinstance(event, yaml.ScalarEvent)
        if depth > MOST_DEEP:
            raise UsageError(f"{where}: a job is nested {MOST_DEEP} deep at most")
        if count > MOST_VALUES:
            raise UsageError(f"{where}: a job has {MOST_VALUES:,} values at most")


def _value(node: yaml.Node, key: KeyPath, source: _Source) -> Value:
    source.lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return {name: _value(item, (*key, name), source) for name, item in _entries(node, key, source)}
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*key, str(index)), source) for index, item in enumerate(node.value)]
    return _scalar(node, key, source)


def _entries(node: yaml.MappingNode, key: KeyPath, source: _Source) -> Iterator[tuple[str, yaml.Node]]:
    seen: dict[str, int] = {}
    for name_node, item in node.value:
        line = name_node.start_mark.line + 1
        where = f"{source.name}, line {line}"
        kind = str(name_node.tag).removeprefix(_TAG)
        if not isinstance(name_node, yaml.ScalarNode) or kind not in ("str", "int"):
            raise UsageError(f"{where}: a key is a word, and this one is not")
        name = str(name_node.value)
        if name in seen:
            raise UsageError(f"{where}: {'.'.join((*key, name))} is given twice, in line {seen[name]} too")
        seen[name] = line
        source.lines[(*key, name)] = line
        yield name, item


def _scalar(node: yaml.Node, key: KeyPath, source: _Source) -> str | int | float | bool | None:
    text, kind = str(node.value), str(node.tag).removeprefix(_TAG)
    if kind == "bool":
        return _BOOLS[text.lower()]
    if kind == "null":
        return None
    if kind == "int":
        return int(text)
    if kind == "float":
        number = float(text)
        if not math.isfinite(number):
            raise UsageError(f"{source.where(key)}: {'.'.join(key)} is too large a number")
        return number
    return text


SET = "--set"


@dataclass(frozen=True)
class Job:
    """A job to run."""

    path: Path
    keys: JobKeys
    document: dict[str, Value]  # the same as plain values, with the command line's settings
    source: _Source  # the position of each key

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.keys.name or self.path.stem

    @property
    def folder(self) -> Path:
        """The base folder of its paths."""
        return self.path.parent

    def at(self, path: str | Path) -> Path:
        """A path of the job, relative to the working directory."""
        return self.folder / path

    def said(self) -> dict[str, Value]:
        """The given keys, including sections, by their dotted names."""
        found: dict[str, Value] = {}
        for name, value in self.document.items():
            found[name] = value
            if isinstance(value, dict):
                found |= {f"{name}.{key}": item for key, item in value.items()}
        return found

    def refused(self, sentence: str) -> UsageError:
        """The error for a sentence that begins with the dotted name of a key, with its line."""
        key = tuple(sentence.split(" ", 1)[0].split("."))
        return UsageError(f"{self.source.where(key)}: {sentence}")


def read_job(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Job:
    """Read a job."""
    place = Path(path)
    source = read_yaml(read_text(place, "the job", MOST_BYTES), str(place))
    if not isinstance(source.value, dict):
        raise UsageError(f"{place} is no job: it has no keys; see onnxheadprune run --schema")
    _require_values(source.value, (), source)
    document = dict(source.value)
    for setting in settings:
        _set(document, setting, source)
    try:
        keys = adapter().validate_json(json.dumps(document))
    except ValidationError as error:
        raise UsageError(_sentence(error, source)) from error
    return Job(place, keys, document, source)


def require_effective(job: Job) -> None:
    """Check the rules between keys."""
    sentence = first_broken(_rules(), job.said(), _spell)
    if sentence is not None:
        raise job.refused(sentence)


def _dotted() -> dict[str, Declared]:
    """The declarations of all keys, including sections, by their dotted names."""
    found = dict(declared(JobKeys))
    for section, kind in SECTIONS.items():
        found |= {f"{section}.{name}": item for name, item in declared(kind).items()}
    return found


def _rules() -> list[tuple[str, Rule]]:
    """The rules of all keys; names in them refer to keys of the same section, else of the whole job."""
    keys, found = _dotted(), []
    for key, item in keys.items():
        section = key.rpartition(".")[0]
        near = {
            name.removeprefix(f"{section}."): name
            for name in keys
            if section and name.startswith(f"{section}.")
        }
        names = {name: name for name in keys} | near
        resolved = (rule.resolved(names.get) for rule in item.setting.rules)
        found += [(key, rule) for rule in resolved if rule is not None]
    return found


def _require_values(value: Value, key: KeyPath, source: _Source) -> None:
    """Check that every key has a value: an empty section could be mistaken for a step with defaults."""
    if value is None or value == "":
        raise UsageError(
            f"{source.where(key)}: {'.'.join(key)} has no value; leave the key out, or write {{}} for a step with its"
            " defaults"
        )
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        _require_values(item, (*key, str(name)), source)


def _set(document: dict[str, Value], setting: str, source: _Source) -> None:
    dotted, equals, text = setting.partition("=")
    key = tuple(dotted.split("."))
    if not equals or not all(key):
        raise UsageError(f"{SET} takes KEY=VALUE like prune.ratio=0.3, not {setting!r:.80}")
    read = read_yaml(text, f"{SET} {dotted}")
    place: Value = document
    for name in key[:-1]:
        assert isinstance(place, dict)
        below = place.get(name, {})
        if not isinstance(below, dict):
            raise UsageError(f"{SET} {dotted}: {name} has no keys below it")
        place[name] = place = dict(below)
    assert isinstance(place, dict)
    source.lines.pop(key, None)
    if read.value is None:
        place.pop(key[-1], None)
        return
    _require_values(read.value, key, _Source(f"{SET} {dotted}", None))
    place[key[-1]] = read.value
    source.elsewhere[key] = f"{SET} {dotted}"


def _sentence(error: ValidationError, source: _Source) -> str:
    """The first error, with its key and line, and the number of further ones."""
    found: dict[KeyPath, list[ErrorDetails]] = {}
    for item in error.errors():
        found.setdefault(_key(item), []).append(item)
    # Of the types that were tried for one key, the one that came furthest was meant.
    first = min(found, key=lambda key: (source.line(key[:2]), key[:2], -len(key)))
    more = len({key[:2] for key in found}) - 1
    rest = "" if not more else f"; and {more} more" + (" is wrong" if more == 1 else " are wrong")
    return f"{source.where(first)}: {_mistake(first, found[first])}{rest}"


def _key(item: ErrorDetails) -> KeyPath:
    """The key of an error, without the type names that pydantic adds for unions."""
    # Keys lie two deep; below them are items of lists, and names of types.
    first, *rest = item["loc"]
    deeper = [str(word) for word in rest[1:] if isinstance(word, int)]
    return (str(first), *map(str, rest[:1]), *deeper)


def _mistake(key: KeyPath, items: Sequence[ErrorDetails]) -> str:
    dotted, first = ".".join(key), items[0]
    if first["type"] == "missing":
        return f"{dotted} is missing, and a job cannot do without it"
    if first["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(key[-1], _names(key[:-1]), 1)
        listed = f"did you mean {near[0]}?" if near else f"there are {', '.join(_names(key[:-1]))}"
        return f"{dotted} is no key of a job; {listed}"
    asked = " or ".join(dict.fromkeys(_asked(item["msg"]) for item in items))
    return f"{dotted} should be {asked}, not {json.dumps(first['input'])[:60]}"


def _asked(message: str) -> str:
    """Return the expected type, from "Input should be a valid number"."""
    return message.partition("should be ")[2] or f"different ({message})"


def _names(section: KeyPath) -> list[str]:
    kind: object = JobKeys
    for name in section:
        hint = get_type_hints(kind).get(name) if isinstance(kind, type) else None
        kinds = [hint, *get_args(hint)]
        kind = next((item for item in kinds if isinstance(item, type) and is_dataclass(item)), None)
    return [item.name for item in fields(kind)] if isinstance(kind, type) and is_dataclass(kind) else []


def _spell(name: str, value: str) -> str | None:
    """A key as messages name it; that of a section without a switch of its own is its first key."""
    if name not in _dotted():
        return None
    name = "data.path" if name == "data" else name
    return name if value in ("", "True") else f"{name} {value.lower() if value == 'False' else value}"


def as_key(name: str, value: str, command: str) -> str:
    """A setting as a job has it, of several sections in the first one; without a key as the command line has it.

    >>> as_key("data", "", ""), as_key("refit", "False", ""), as_key("csv", "", "bench")
    ('data.path', 'prune.refit: false', 'bench --csv')
    """
    keys = [key for key in _dotted() if key.rpartition(".")[2] == name]
    if not keys or command:
        return option(name, value, command)
    key = _spell(keys[0], "") or keys[0]
    return f"{key}: {value.lower() if value in ('True', 'False') else value}" if value else key
