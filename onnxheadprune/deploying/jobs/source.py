"""YAML as a job may hold it: plain values with the lines that they came from, read within bounds.

A job is data: no tags, so that nothing but numbers, text, lists and mappings comes out; no anchors, so that what is
read is no larger than what is written; no key twice. Words mean what YAML 1.2 says: `no` and `on` are text, 1e-3 is a
number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

from onnxheadprune.errors import UsageError

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Key: TypeAlias = tuple[str, ...]
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
    """Makes nodes and nothing else; what plain words mean is said by `_RESOLVERS` alone."""


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(
        f"{_TAG}{_name}", re.compile(rf"^(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
    )


@dataclass(frozen=True)
class Source:
    """The contents of a YAML text, with lines.

    Attributes:
        name: how errors call the text.
        lines: where each key is, from 1 on.
        elsewhere: keys whose values come from elsewhere, and how errors call that.
    """

    name: str
    value: Value
    lines: dict[Key, int] = field(default_factory=dict)
    elsewhere: dict[Key, str] = field(default_factory=dict)

    def where(self, key: Key) -> str:
        """Return where a key, or the nearest one around it, is written: "job.yaml, line 7"."""
        for end in range(len(key), -1, -1):
            if (told := self.elsewhere.get(key[:end])) is not None:
                return told
            if key[:end] in self.lines:
                return f"{self.name}, line {self.lines[key[:end]]}"
        return self.name

    def line(self, key: Key) -> int:
        """The line of a key, or of the nearest one around it; 0 for what comes from elsewhere."""
        return next((self.lines[key[:end]] for end in range(len(key), -1, -1) if key[:end] in self.lines), 0)


def read_yaml(text: str, name: str) -> Source:
    """Reads a text.

    Raises:
        UsageError: if it is no YAML, or more than a job may hold.
    """
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
    source = Source(name, None)
    return source if node is None else Source(name, _value(node, (), source), source.lines)


def _require_plain(text: str, name: str) -> None:
    """Check whether a text is plain data of a size that is read; asked before anything is made of it."""
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


def _value(node: yaml.Node, key: Key, source: Source) -> Value:
    source.lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return {name: _value(item, (*key, name), source) for name, item in _entries(node, key, source)}
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*key, str(index)), source) for index, item in enumerate(node.value)]
    return _scalar(node, key, source)


def _entries(node: yaml.MappingNode, key: Key, source: Source) -> Iterator[tuple[str, yaml.Node]]:
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


def _scalar(node: yaml.Node, key: Key, source: Source) -> str | int | float | bool | None:
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
