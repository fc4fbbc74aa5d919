"""The keys that a job may have, as its types say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from onnxheadprune.workflow.jobs.keys import JobKeys


def sections() -> dict[str, type[Any]]:
    """The sections of a job with their types; "" is the job itself."""
    found: dict[str, type[Any]] = {"": JobKeys}
    for name, hint in get_type_hints(JobKeys).items():
        kinds = [item for item in (hint, *get_args(hint)) if isinstance(item, type) and is_dataclass(item)]
        if kinds:
            found[name] = kinds[0]
    return found


def dotted_keys() -> Iterator[str]:
    """Every key with its section before it."""
    for section, kind in sections().items():
        yield from (f"{section}.{item.name}".lstrip(".") for item in fields(kind))
