"""From the file of a job, and what the command line sets in it, to its typed keys."""

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
from onnxheadprune.deploying.jobs.source import MOST_BYTES, Key, Source, Value, read_yaml
from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import read_text
from onnxheadprune.settings.rules import Rule, first_broken
from onnxheadprune.settings.setting import Declared, declared

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SET = "--set"


@dataclass(frozen=True)
class Job:
    """A job as it is carried out.

    Attributes:
        document: the same as plain values, with what the command line has set.
        source: where each key is written.
    """

    path: Path
    keys: JobKeys
    document: dict[str, Value]
    source: Source

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.keys.name or self.path.stem

    @property
    def folder(self) -> Path:
        """Where its paths start."""
        return self.path.parent

    def at(self, path: str | Path) -> Path:
        """A path of the job, from where this process is."""
        return self.folder / path

    def said(self) -> dict[str, Value]:
        """The keys that somebody wrote, by their dotted names; sections among them."""
        found: dict[str, Value] = {}
        for name, value in self.document.items():
            found[name] = value
            if isinstance(value, dict):
                found |= {f"{name}.{key}": item for key, item in value.items()}
        return found

    def refused(self, sentence: str) -> UsageError:
        """The error for a sentence that begins with the dotted name of a key: it says in which line that is."""
        key = tuple(sentence.split(" ", 1)[0].split("."))
        return UsageError(f"{self.source.where(key)}: {sentence}")


def read_job(path: str | os.PathLike[str], settings: Sequence[str] = ()) -> Job:
    """Reads a job.

    Args:
        path: a YAML file.
        settings: "prune.ratio=0.3" and the like, each in the place of what the file says; null takes a key away.

    Raises:
        UsageError: if the file cannot be read, or is no job. The sentence names key and line.
    """
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
    """Check the rules between keys.

    Raises:
        UsageError: if a key has no effect beside the others.
    """
    sentence = first_broken(_rules(), job.said(), {name: name for name in _dotted()})
    if sentence is not None:
        raise job.refused(sentence)


def _dotted() -> dict[str, Declared]:
    """The declarations of all keys by their dotted names; sections among them."""
    found = dict(declared(JobKeys))
    for section, kind in SECTIONS.items():
        found |= {f"{section}.{name}": item for name, item in declared(kind).items()}
    return found


def _rules() -> list[tuple[str, Rule]]:
    """The rules of all keys; a name in them means a key of the same section, else one of the whole job."""
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


def _require_values(value: Value, key: Key, source: Source) -> None:
    """Check whether every key has a value: an empty section is easily taken for a step with its defaults."""
    if value is None or value == "":
        raise UsageError(
            f"{source.where(key)}: {'.'.join(key)} has no value; leave the key out, or write {{}} for a step with its"
            " defaults"
        )
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        _require_values(item, (*key, str(name)), source)


def _set(document: dict[str, Value], setting: str, source: Source) -> None:
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
    _require_values(read.value, key, Source(f"{SET} {dotted}", None))
    place[key[-1]] = read.value
    source.elsewhere[key] = f"{SET} {dotted}"


def _sentence(error: ValidationError, source: Source) -> str:
    """The first mistake, with its key and line, and how many more there are."""
    found: dict[Key, list[ErrorDetails]] = {}
    for item in error.errors():
        found.setdefault(_key(item), []).append(item)
    # Of the types that were tried for one key, the one that came furthest was meant.
    first = min(found, key=lambda key: (source.line(key[:2]), key[:2], -len(key)))
    more = len({key[:2] for key in found}) - 1
    rest = "" if not more else f"; and {more} more" + (" is wrong" if more == 1 else " are wrong")
    return f"{source.where(first)}: {_mistake(first, found[first])}{rest}"


def _key(item: ErrorDetails) -> Key:
    """The key that an error is about; pydantic also tells which of several types it tried."""
    # Keys lie two deep; below them are items of lists, and names of types.
    first, *rest = item["loc"]
    deeper = [str(word) for word in rest[1:] if isinstance(word, int)]
    return (str(first), *map(str, rest[:1]), *deeper)


def _mistake(key: Key, items: Sequence[ErrorDetails]) -> str:
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
    """Return what was asked for, out of "Input should be a valid number"."""
    return message.partition("should be ")[2] or f"different ({message})"


def _names(section: Key) -> list[str]:
    kind: object = JobKeys
    for name in section:
        hint = get_type_hints(kind).get(name) if isinstance(kind, type) else None
        kinds = [hint, *get_args(hint)]
        kind = next((item for item in kinds if isinstance(item, type) and is_dataclass(item)), None)
    return [item.name for item in fields(kind)] if isinstance(kind, type) and is_dataclass(kind) else []
