"""Files that hold no text, and paths that no file has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def zero(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def missing(path: Path) -> Path:
    return path


def sparse(path: Path) -> Path:
    with path.open("wb") as stream:
        stream.truncate(2**30)
    return path


def utf_16(path: Path) -> Path:
    path.write_text('{"0": [1]}', encoding="utf-16")
    return path


FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zero": (zero, "is a device"),
    "fifo": (pipe, "is a FIFO"),
    "missing": (missing, "does not exist"),
    "sparse": (sparse, "is larger than .* bytes|holds zero bytes"),
    "UTF-16": (utf_16, "is not UTF-8 text; save it as UTF-8"),
}
"""What makes each at a path, and what is said of it."""
IMPOSSIBLE = {"name": "x" * 300, "path": "x/" * 3000, "NUL": "nul\0byte.npz"}
