"""From the file of a job, and the command line's settings, to its typed keys.

A job is YAML of plain values: no tags, so all values are numbers, text, lists and mappings; no anchors, so nothing is
expanded; no duplicate keys. Scalars follow YAML 1.2: `no` and `on` are text, 1e-3 is a number.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import yaml

from onnxheadprune.deploying.jobs.keys import SECTIONS, JobKeys
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import read_text
from onnxheadprune.settings.calls import is_function, named_by
from onnxheadprune.settings.setting import Declared, Rule, declared, first_broken
from onnxheadprune.settings.words import option

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Call = TypeVar("Call")
KeyPath: TypeAlias = tuple[str, ...]
"""A place in a job: ("prune", "ratio"); items of lists by their number."""
Places: TypeAlias = dict[KeyPath, str]
"""Where the keys of a text stand: "job.yaml, line 7, column 3"."""

MOST_BYTES = 2**18
MOST_DEEP = 12
SET = "--set"

_TAG = "tag:yaml.org,2002:"
_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"


class _Loader(yaml.SafeLoader):
    """Makes nodes of plain data."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as the parent declares it
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node, which has neither an anchor nor a tag."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # stubs lack it
        place = _at(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise UsageError(f"{place}: a job has no anchors and aliases (& and *); write the values out")
        if event.tag is not None:
            raise UsageError(f"{place}: a job has no tags, and {event.tag!r:.60} is one; write plain values")
        self.depth += 1
        if self.depth > MOST_DEEP:
            raise UsageError(f"{place}: a job is nested {MOST_DEEP} deep at most")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]{1,18}", "-+0123456789"),
    ("float", _NUMBER, "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _at(mark: yaml.Mark) -> str:
    """A place in a text; settings of the command line have one line."""
    if mark.name.startswith(SET):
        return str(mark.name)
    return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"


def read_yaml(text: str, name: str, key: KeyPath = ()) -> tuple[Value, Places]:
    """The value of a text, None for an empty one, and where its keys stand.

    Args:
        key: the key that the text is the value of.
    """
    if len(text) > MOST_BYTES:
        raise UsageError(f"{name} is larger than {MOST_BYTES:,} characters, the most that a job has")
    try:
        loader = _Loader(text)
        loader.name = name
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else _at(mark)
        raise UsageError(f"{where}: this is no YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is no YAML: {' '.join(str(error).split())}") from error
    places: Places = {}
    return (None, places) if node is None else (_value(node, key, places), places)


def _value(node: yaml.Node, key: KeyPath, places: Places) -> Value:
    place = places.setdefault(key, _at(node.start_mark))
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Value] = {}
        for word, item in node.value:
            at = _at(word.start_mark)
            if not isinstance(word, yaml.ScalarNode) or word.tag not in (f"{_TAG}str", f"{_TAG}int"):
                raise UsageError(f"{at}: a key is a word, and this one is not")
            below = (*key, str(word.value))
            if below in places:
                raise UsageError(f"{at}: {'.'.join(below)} is given more than once, first in {places[below]}")
            places[below] = at
            found[below[-1]] = _given(_value(item, below, places), below, places)
        return found
    if isinstance(node, yaml.SequenceNode):
        below_each = [((*key, str(index)), item) for index, item in enumerate(node.value)]
        return [_given(_value(item, below, places), below, places) for below, item in below_each]
    text, kind = str(node.value), str(node.tag).removeprefix(_TAG)
    if kind == "bool":
        return text.lower() == "true"
    if kind == "float" and not math.isfinite(float(text)):
        raise UsageError(f"{place}: {'.'.join(key)} is too large a number")
    readers: Mapping[str, Any] = {"int": int, "float": float, "null": lambda _: None}
    return readers.get(kind, str)(text)  # type: ignore[no-any-return]


def _given(value: Value, key: KeyPath, places: Places) -> Value:
    """A value that is there: an empty section could be mistaken for a step with defaults."""
    if value is None or value == "":
        raise UsageError(
            f"{places[key]}: {'.'.join(key)} has no value; leave the key out, or write {{}} for a step with its"
            " defaults"
        )
    return value


@dataclass(frozen=True)
class Job:
    """A job to run."""

    path: Path
    keys: JobKeys
    document: dict[str, Value]  # the same as plain values, with the command line's settings
    places: Places  # where each key stands

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

    def placed(self, call: Call) -> Call:
        """A call whose paths are relative to the working directory."""
        named = {name: value for name, value in named_by(call).items() if not is_function(value)}
        return replace(call, **{name: type(value)(self.at(value)) for name, value in named.items()})  # type: ignore[type-var]

    def said(self) -> dict[str, Value]:
        """The given keys, including sections, by their dotted names."""
        found: dict[str, Value] = {}
        for name, value in self.document.items():
            found[name] = value
            if isinstance(value, dict):
                found |= {f"{name}.{key}": item for key, item in value.items()}
        return found

    def refused(self, sentence: str) -> UsageError:
        """The error for a sentence that begins with the dotted name of a key, with its place."""
        name = re.match(r"[\w.]*\w", sentence)
        assert name is not None
        return UsageError(f"{self.places[_known(tuple(name[0].split('.')), self.places)]}: {sentence}")


def _known(key: KeyPath, places: Places) -> KeyPath:
    """A key that stands somewhere, or the nearest enclosing one."""
    return next(key[:end] for end in range(len(key), -1, -1) if key[:end] in places)


def read_job(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Job:
    """Read a job."""
    place = Path(path)
    document, places = read_yaml(read_text(place, "the job", MOST_BYTES), str(place))
    if not isinstance(document, dict):
        raise UsageError(f"{place} is no job: it has no keys; see onnxheadprune run --schema")
    for setting in settings:
        _set(document, setting, places)
    wrong: dict[KeyPath, str] = {}
    keys = read_keys(JobKeys, document, (), wrong)
    job = Job(place, keys, document, places)
    if wrong:
        order = list(places)
        first = min(wrong, key=lambda key: (order.index(_known(key, places)), key))
        more = len(wrong) - 1
        rest = "" if not more else f"; and {more} more" + (" is wrong" if more == 1 else " are wrong")
        raise job.refused(f"{wrong[first]}{rest}")
    return job


def read_keys(group: type[Any], value: Value, key: KeyPath, wrong: dict[KeyPath, str]) -> Any:
    """The typed keys of a section, None where one is wrong: then `wrong` has a sentence on each."""
    known, read = declared(group), {}
    if not isinstance(value, dict):
        wrong[key] = f"{'.'.join(key)} must be a section with keys, not {json.dumps(value)[:60]}"
        return None
    for name in value.keys() - known.keys():
        near = difflib.get_close_matches(name, known, 1)
        listed = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        wrong[*key, name] = f"{'.'.join((*key, name))} is no key of a job; {listed}"
    for name, item in known.items():
        place = (*key, name)
        if name not in value:
            if item.required:
                wrong[place] = f"{'.'.join(place)} is missing, and a job cannot do without it"
        elif isinstance(item.kind, type) and is_dataclass(item.kind):
            read[name] = read_keys(item.kind, value[name], place, wrong)
        else:
            try:
                read[name] = item.read(value[name])
            except UsageError as error:
                wrong[place] = ".".join(place) + str(error).removeprefix(name)
    return None if wrong else group(**read)


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


def _set(document: dict[str, Value], setting: str, places: Places) -> None:
    dotted, equals, text = setting.partition("=")
    *above, last = key = tuple(dotted.split("."))
    if not equals or not all(key):
        raise UsageError(f"{SET} takes KEY=VALUE like prune.ratio=0.3, not {setting!r:.80}")
    value, own = read_yaml(text, f"{SET} {dotted}", key)
    section: Value = document
    for name in above:
        assert isinstance(section, dict)
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            raise UsageError(f"{SET} {dotted}: {name} has no keys below it")
    assert isinstance(section, dict)
    for old in [place for place in places if place[: len(key)] == key]:
        del places[old]
    section.pop(last, None)
    if value is not None:
        places |= own
        section[last] = _given(value, key, places)


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
