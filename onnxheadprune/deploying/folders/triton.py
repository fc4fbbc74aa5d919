"""Configurations of Triton (`config.pbtxt`): the declared inputs and outputs that a cut changes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from onnxheadprune.deploying.folders.result import FileResult
from onnxheadprune.model.documents import read_text
from onnxheadprune.model.spelling import first_few

NAME = "config.pbtxt"
Fields: TypeAlias = dict[str, list[Any]]
"""The values of each field of a message, in order: numbers and names as text, messages as fields."""
_TOKEN = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[^\s{}\[\]<>:,;"'#]+|\S""")


def read_text_proto(text: str) -> Fields:
    """Read a message in protobuf's text format without knowing its type.

    >>> read_text_proto("input [ { dims: [ 4, -1 ] name: 'past' } ]  # of a decoder")
    {'input': [{'dims': ['4', '-1'], 'name': ['past']}]}

    Raises:
        ValueError: if it is not in that format.
    """
    message: Fields = {}
    around: list[tuple[Fields, str, bool]] = []
    field, listed = "", False
    for token in _TOKEN.findall(text):
        if token in ("}", ">"):
            if not around or listed:
                raise ValueError(f"{token} without its beginning")
            message, field, listed = around.pop()
            field = field if listed else ""
        elif token in ("[", "]"):
            if not field or listed is (token == "["):
                raise ValueError(f"{token} outside of a field")
            listed, field = token == "[", field if token == "[" else ""
        elif token in ("{", "<"):
            if not field:
                raise ValueError("a message without the name of its field")
            inner: Fields = {}
            message.setdefault(field, []).append(inner)
            around.append((message, field, listed))
            message, field, listed = inner, "", False
        elif field and token[0] not in "#:,;":
            message.setdefault(field, []).append(token[1:-1] if token[0] in "\"'" else token)
            field = field if listed else ""
        elif token[0] not in "#:,;\"'":
            field = token
    if around or listed:
        raise ValueError("it ends within a message or a list")
    return message


def stale_declarations(root: Path, copied: Iterable[str], results: Sequence[FileResult]) -> Iterator[str]:
    """A sentence for each configuration that declares inputs or outputs as they were before the cut."""
    for name in copied:
        if PurePosixPath(name).name != NAME:
            continue
        try:
            fields = read_text_proto(read_text(root / name, "the configuration of Triton"))
        except ValueError as error:
            yield f"{name} is copied unread, since it is not in protobuf's text format: {error}"
            continue
        # With a largest batch, the axis of samples is left out.
        front = int(fields.get("max_batch_size", ["0"])[-1] not in ("0", "-1"))
        items = [*fields.get("input", []), *fields.get("output", [])]
        declared = {item["name"][-1]: item.get("dims", []) for item in items if item.get("name")}
        plans = [item.result.plan for item in results]
        dims = [
            change
            for change in {change.name: change for plan in plans for change in plan.interface}.values()
            if change.axis is not None
            and declared.get(change.name, [])[max(0, change.axis - front) :][:1] == [str(change.before)]
        ]
        if dims:
            yield (
                f"{name} declares dims of {first_few((change.name for change in dims), 1)}, where"
                f" {dims[0].before} is {dims[0].after} now: Triton loads the model once they are updated"
            )
        gone = [io for plan in plans for io in plan.renamed if io.name in declared]
        if gone:
            yield (
                f"{name} declares {first_few((io.name for io in gone), 1)}, and inputs and outputs are dropped or"
                " renamed: Triton loads the model once they are updated"
            )
