"""The configuration files of an export: read, compared with the models, and patched in the fields that must follow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxheadprune.deploying.clients.contract import CONFIG, ConfigChange
from onnxheadprune.deploying.clients.optimum import HEADS, KV_HEADS, STACKS
from onnxheadprune.deploying.folders.matching import Match
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.documents import NotJsonError, parse_json, read_text

INDENT = 2


def read_config(root: Path, others: Iterable[str], name: str = CONFIG) -> dict[str, Any]:
    """Return what a configuration file says; empty without one.

    Raises:
        UsageError: if it is there and cannot be read.
    """
    return _parsed(root / name) if name in others else {}


def _parsed(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_text(path, "the configuration"))
    except NotJsonError as error:
        raise UsageError(f"the configuration {path} is {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"the configuration {path} is no JSON object")
    return found


def check_config(config: Mapping[str, Any], match: Match) -> None:
    """Check whether the configuration can be that of the models: its numbers of heads are those of some site.

    A configuration that says nothing about heads, or leaves that to parts of it, is not judged.

    Raises:
        RefusedError: if it is that of another model.
    """
    sites = match.as_sites(CONFIG).sites
    if any(isinstance(value, dict) and name.endswith("_config") for name, value in config.items()):
        return
    _compare(
        config, (*HEADS, *STACKS), {n for s in sites for n in (s.num_heads, s.original_num_heads)}, "heads"
    )
    cached = [site for site in sites if site.free]
    if cached:
        counts = {n for s in cached for n in (s.kv_num_heads, s.original_kv_num_heads)}
        _compare(config, KV_HEADS, counts, "KV heads")


def _compare(config: Mapping[str, Any], names: Iterable[str], found: set[int], what: str) -> None:
    said = {name: config[name] for name in names if type(config.get(name)) is int}
    if said and found and found.isdisjoint(said.values()):
        told = " and ".join(f"{name} {value}" for name, value in said.items())
        counts = " or ".join(map(str, sorted(found)))
        raise RefusedError(
            f"{CONFIG} contradicts the models: it says {told}, and their attention has {counts} {what}; is it that of"
            " another model?"
        )


def patched(root: Path, changes: Iterable[ConfigChange]) -> dict[str, bytes]:
    """The configuration files that change, with their new contents; every other field stays as it is."""
    documents: dict[str, dict[str, Any]] = {}
    for change in changes:
        document = documents.setdefault(change.file, _parsed(root / change.file))
        inner = document
        for name in change.field[:-1]:
            inner = inner.setdefault(name, {})
        inner[change.field[-1]] = change.after
    return {
        name: (json.dumps(document, indent=INDENT, ensure_ascii=False) + "\n").encode()
        for name, document in documents.items()
    }
