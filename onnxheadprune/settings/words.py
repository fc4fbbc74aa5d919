"""Settings in documentation and messages: tables of keys, and the keywords of Python functions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_origin

from onnxheadprune.settings.setting import NAMED, Declared, declared

OPTION = re.compile(
    r"(?:onnxheadprune|optimum-cli|pip install)\b[^;,`]*"  # a command line
    r"|(?:\b(?P<function>prune|score) )?(?<![\w-])--(?P<no>no-)?(?P<name>[a-z]+(?:-[a-z]+)*)"
    r"(?:[ =](?P<value>[a-z0-9]+)\b| (?=\"))?"
)
"""An option in a message, with the word after it, which may be its value."""
PROVIDERS = ("auto", "cpu", "cuda")
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


def in_python(message: str) -> str:
    """Return a message with keywords in place of options, as Python functions take them.

    >>> in_python("choose with --data-format npz, or give real inputs with --data")
    'choose with data_format="npz", or give real inputs with data='

    Args:
        message: names options as the command line spells them; command lines in it are left alone.
    """
    from onnxheadprune.settings import cutting, inputs, measuring, writing

    groups = (item for module in (cutting, inputs, measuring, writing) for item in vars(module).values())
    known = {
        flag.removeprefix("--"): item
        for group in groups
        if isinstance(group, type) and is_dataclass(group)
        for item in declared(group).values()
        for flag in (f"--{item.name.replace('_', '-')}", *re.split(r"[ /]", item.setting.flags))
    }
    return OPTION.sub(lambda found: _keyword(found, known), message)


def _keyword(found: re.Match[str], known: Mapping[str, Declared]) -> str:
    if found["name"] is None:
        return found[0]
    item, value = known.get(found["name"]), found["value"]
    name = found["name"].replace("-", "_") if item is None else item.name
    behind = f" {value}" if value else ""
    words = PROVIDERS if name == "provider" else () if item is None else item.words
    if found["no"] or (item is not None and f"/--{found['name']}" in item.setting.flags):
        written = f"{name}=False{behind}"
    elif value in words:
        written = f'{name}="{value}"'
    elif value and value.isdecimal():
        written = f"{name}={value}"
    else:
        written = f"{name}={'True' if item is not None and item.kind is bool else ''}{behind}"
    return f"{found['function']}({written}...)" if found["function"] else written


def described(item: Declared) -> str:
    """Return what a setting does, with names of others in backticks."""
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
