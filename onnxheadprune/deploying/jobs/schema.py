"""The JSON schema of a job: made from the types of its keys, published as a file beside this one."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import TypeAlias

from pydantic import TypeAdapter

from onnxheadprune.deploying.jobs.keys import JobKeys

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
IDENTIFIER = "urn:onnxheadprune:job:1"
_UNSAID = ("title", "default")
"""What pydantic adds for every key: a title that repeats it, and `null` for what is not there."""


@functools.cache
def adapter() -> TypeAdapter[JobKeys]:
    """Reads a job into its types."""
    return TypeAdapter(JobKeys)


def _schema_of_types() -> dict[str, Json]:
    """The schema that the types make. A key that is not there has no value: null is none."""
    made = {name: _told(part) for name, part in adapter().json_schema().items() if name != "title"}
    return {"$schema": DIALECT, "$id": IDENTIFIER, "title": "A job of onnxheadprune", **made}


def published() -> str:
    """The text of the published schema."""
    return files("onnxheadprune.deploying.jobs").joinpath("schema.json").read_text(encoding="utf-8")


def published_text() -> str:
    """Return what the published schema has to be; pydantic orders keys as it likes."""
    return json.dumps(_schema_of_types(), indent=2, sort_keys=True) + "\n"


def _told(part: Json) -> Json:
    if isinstance(part, list):
        return [_told(item) for item in part]
    if not isinstance(part, dict):
        return part
    # Names of keys are no words of the schema, so what lies below `properties` keeps them.
    found: dict[str, Json] = {}
    for name, item in part.items():
        if name in ("properties", "$defs") and isinstance(item, dict):
            found[name] = {key: _told(value) for key, value in item.items()}
        elif name == "default" and item is not None:
            found[name] = item
        elif name not in _UNSAID:
            found[name] = _told(item)
    kinds = found.get("anyOf")
    if isinstance(kinds, list) and {"type": "null"} in kinds:
        left = [kind for kind in kinds if kind != {"type": "null"}]
        rest = {name: item for name, item in found.items() if name != "anyOf"}
        only = left[0]
        return {**only, **rest} if len(left) == 1 and isinstance(only, dict) else {"anyOf": left, **rest}
    return found
