"""Settings in documentation and messages: tables of keys, and how the command line and Python spell them."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_origin

from onnxheadprune.errors import HeadPruneError
from onnxheadprune.settings.setting import NAMED, Declared, declared

Spell: TypeAlias = Callable[[str, str, str], str]
"""Writes a setting, by its name, its value ("" for none) and the command that has it ("" for the one that runs)."""
Said = TypeVar("Said")
_IN_TEXT = re.compile(r"`(?:(\w+) )?(\w+)(?:=([^`]*))?`")

_KINDS = {
    int: "whole number",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    Mapping: "mapping",
}


def table(group: type[Any]) -> str:
    """A table of the settings of a dataclass in Markdown."""
    rows = ("| " + " | ".join(row) + " |" for row in _rows(group))
    return "\n".join(["| key | value | default | description |", "|---|---|---|---|", *rows])


@functools.cache
def _known() -> Mapping[str, Declared]:
    from onnxheadprune.settings import calls, cutting, inputs, measuring, writing

    modules = (cutting, inputs, measuring, writing, calls)
    groups = (item for module in modules for item in vars(module).values())
    return {
        name: item
        for group in groups
        if isinstance(group, type) and is_dataclass(group)
        for name, item in declared(group).items()
    }


def spelled_by(spell: Spell, said: Said) -> Said:
    """A sentence, or all sentences of facts or a document, with settings in backticks as a front end spells them.

    >>> spelled_by(option, "give `data`, or leave `cache=keep` out"), spelled_by(keyword, ("`prune exit`", 1))
    ('give --data, or leave --cache keep out', ('prune(exit=...)', 1))
    """
    return _spelled_by(spell, said)  # type: ignore[no-any-return]


def _spelled_by(spell: Spell, said: Any) -> Any:
    if isinstance(said, str):

        def written(found: re.Match[str]) -> str:
            return spell(found[2], found[3] or "", found[1] or "") if found[2] in _known() else found[0]

        return _IN_TEXT.sub(written, said)
    if isinstance(said, (list, tuple)):
        return type(said)(_spelled_by(spell, item) for item in said)
    if isinstance(said, Mapping):
        return {name: _spelled_by(spell, item) for name, item in said.items()}
    if is_dataclass(said) and not isinstance(said, type):
        return replace(
            said, **{item.name: _spelled_by(spell, getattr(said, item.name)) for item in fields(said)}
        )
    return said


@contextlib.contextmanager
def errors_spelled_by(spell: Spell) -> Iterator[None]:
    """Spell the settings in errors that are raised within."""
    try:
        yield
    except HeadPruneError as error:
        error.args = (_spelled_by(spell, str(error)), *error.args[1:])
        raise


def option(name: str, value: str, command: str) -> str:
    """A setting as the command line spells it.

    >>> option("cache", "keep", ""), option("refit", "False", ""), option("exit", "", "prune")
    ('--cache keep', '--no-refit', 'prune --exit')
    """
    written = flag_of(_known()[name], value) if name in _known() else " ".join([_flag(name), value]).strip()
    return f"{command} {written}" if command else written


def flag_of(item: Declared, value: str = "") -> str:
    """An option or an argument as it is typed, of a switch that which sets the value."""
    on, _, off = item.setting.flags.partition("/")
    if item.setting.argument:
        return item.name.upper()
    written = max((flag for flag in on.split() if flag.startswith("--")), key=len, default=_flag(item.name))
    if value == "False":
        return off or (written if written.startswith("--no-") else f"--no-{_flag(item.name)[2:]}")
    if value == "True":
        return written if off else _flag(item.name)
    return f"{written} {value}" if value else written


def meant(name: str, settings: Mapping[str, Declared]) -> Iterator[tuple[str, str]]:
    """Settings of which a word was taken for a setting, each with the word: `--int4` is `--to int4`."""
    for item in settings.values():
        words = () if get_origin(item.kind) is Mapping else item.words
        yield from ((item.name, word) for word in words if word == name or word.startswith(f"{name}-"))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def keyword(name: str, value: str, command: str) -> str:
    """A setting as Python spells it.

    >>> keyword("cache", "keep", ""), keyword("refit", "False", ""), keyword("exit", "", "prune")
    ('cache="keep"', 'refit=False', 'prune(exit=...)')
    """
    is_bool = name in _known() and _known()[name].kind is bool
    bare = not value or value.isdecimal() or value in ("True", "False") or value.startswith('"')
    written = f"{name}={value or ('True' if is_bool else '')}" if bare else f'{name}="{value}"'
    return f"{command}({written}...)" if command else written


def described(item: Declared) -> str:
    """The description of a setting, with names of others in backticks."""
    return NAMED.sub(r"`\1`", item.setting.help)


def _rows(group: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    for name, item in declared(group).items():
        default = "" if item.required or item.default in (None, (), {}) else f"`{_shown(item.default)}`"
        yield f"`{name}`", _values(item), "required" if item.required else default, described(item)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(item: Declared) -> str:
    """The values that a setting may have, in words."""
    is_list = get_origin(item.kind) is tuple
    kind = item.kind.__args__[0] if is_list else item.kind
    kind = getattr(kind, "__origin__", kind)
    words = ", ".join(f"`{word}`" for word in item.words) or _KINDS.get(kind, "section")
    bounds = f" {item.bounds}" if kind in (int, float) and str(item.bounds) else ""
    return f"{'list: ' if is_list else ''}{words}{bounds}"
