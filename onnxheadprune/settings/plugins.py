"""Operators, scoring methods and runtimes of other packages: entry points of the group `onnxheadprune`.

The name of an entry point says what its module registers, and so when it is imported: `operators` with the operators of
this package, `settings` with the lists of scoring methods and runtimes, when a command starts.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.errors import UsageError, heed

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "onnxheadprune"


def load(name: str) -> None:
    """Import the modules that installed packages register under a name.

    Raises:
        UsageError: if one cannot be imported.
    """
    for point in _entry_points():
        if point.name != name:
            continue
        try:
            point.load()
        except Exception as error:
            heed(error)
            package = point.dist.name if point.dist else "a package"
            raise UsageError(
                f"{package} registers {name} for onnxheadprune in {point.value}, which cannot be imported: "
                f"{type(error).__name__}: {error}; repair it or uninstall it"
            ) from error


@functools.cache
def _entry_points() -> tuple[EntryPoint, ...]:
    if not any(_lists_group(folder) for folder in sys.path):
        return ()
    # It takes as long to import as `--help`, and few have such a package.
    from importlib.metadata import entry_points

    return tuple(sorted(entry_points(group=GROUP), key=lambda point: (point.value, point.name)))


def _lists_group(folder: str) -> bool:
    """Return whether a package that is installed in a folder has entry points of the group."""
    with contextlib.suppress(OSError), os.scandir(folder or ".") as items:
        return any(
            map(_is_in, (item.path for item in items if item.name.endswith((".dist-info", ".egg-info"))))
        )
    return False


def _is_in(path: str) -> bool:
    with contextlib.suppress(OSError):
        return f"[{GROUP}]".encode() in Path(path, "entry_points.txt").read_bytes()
    return False
