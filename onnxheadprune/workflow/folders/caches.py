"""Whether caches fit from file to file after a cut: what one model gives as present, another one takes as past."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from onnxheadprune.errors import RefusedError
from onnxheadprune.workflow.folders.export import ModelFile
from onnxheadprune.workflow.folders.result import FileResult

_TENSE = re.compile(r"^(past_key_values?|present_key_values?|past|present)(?=[._])")


def plain(name: str) -> str:
    """What a cache is called as past ("past_key_values.0.key") and as present ("present.0.key") alike: ".0.key"."""
    return _TENSE.sub("", name)


def check_caches(files: Sequence[ModelFile], results: Sequence[FileResult]) -> None:
    """Compares the inputs and outputs of one name, and pasts with presents.

    Args:
        files: those of a network.
        results: what became of those that were cut.

    Raises:
        RefusedError: if one gets narrower and another of its kind and size does not.
    """
    changes: dict[tuple[str, str], dict[int, tuple[object, object]]] = defaultdict(dict)
    for item in results:
        for change in item.result.plan.interface:
            if change.axis is not None:
                changes[item.name, change.name][change.axis] = change.before, change.after
    kinds: dict[str, list[tuple[str, str]]] = defaultdict(list)
    shapes = {}
    for file in files:
        for value in file.view.main.values.values():
            outside = value.is_graph_output or (value.is_graph_input and not value.is_initializer)
            if outside and value.shape is not None:
                kinds[plain(value.name)].append((file.name, value.name))
                shapes[file.name, value.name] = value.shape
    for (file_name, name), axes in changes.items():
        for other in kinds[plain(name)]:
            shape = shapes[other]
            if len(shape) != len(shapes[file_name, name]):
                continue
            for axis, (before, after) in axes.items():
                theirs = changes.get(other, {}).get(axis)
                after_there = before if theirs is None else theirs[1]
                if shape[axis] == before and after_there != after:
                    raise RefusedError(
                        f"{name} of {file_name} would have {after} in place of {before} on axis {axis}, and {other[1]}"
                        f" of {other[0]} would stay as it is, so the files would not work together; --cache keep"
                        " leaves the caches as they are"
                    )
