"""The keys that a job may have, as its types say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from onnxheadprune.deploying.jobs.keys import SECTIONS, JobKeys


def sections() -> dict[str, type[Any]]:
    """The sections of a job with their types; "" is the job itself."""
    return {"": JobKeys, **SECTIONS}


def dotted_keys() -> Iterator[str]:
    """Every key with its section before it."""
    for section, kind in sections().items():
        yield from (f"{section}.{item.name}".lstrip(".") for item in fields(kind))
