"""The files that tensors refer to: inside the model's folder, regular, and the same from first to last read."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeAlias

from onnxheadprune.errors import ModelError


@dataclass(frozen=True)
class Source:
    """A file with weights, as it was when the model was opened.

    Attributes:
        path: where it is.
        size: bytes in it.
        identity: device, inode and time of change; a file that is replaced while it is read is noticed.
    """

    path: Path
    size: int
    identity: tuple[int, ...]

    def open(self) -> int:
        """A handle for reading.

        Raises:
            ModelError: if the file is gone or was changed since.
        """
        try:
            handle = open_at_once(self.path)
        except OSError as error:
            raise ModelError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if identity_of(os.fstat(handle)) != self.identity:
            os.close(handle)
            raise ModelError(f"{self.path} was modified while being read")
        return handle


Sources: TypeAlias = Mapping[str, Source]
"""The files of one model by their `location`."""


def open_at_once(path: Path) -> int:
    """A handle for reading, also of a FIFO that took the place of a file: that one would let its reader wait.

    Raises:
        OSError: if it cannot be opened.
    """
    return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0))


def source_at(path: Path) -> Source:
    """A file as it is now.

    Raises:
        OSError: if there is none.
    """
    found = path.stat()
    return Source(path, found.st_size, identity_of(found))


def source_of(handle: int, path: Path) -> Source:
    """The file behind an open handle."""
    found = os.fstat(handle)
    return Source(path, found.st_size, identity_of(found))


def identity_of(found: os.stat_result) -> tuple[int, ...]:
    """Device, inode, size and time of change."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def inside(folder: Path, location: str, model: str, *, follow_links: bool = False) -> Source:
    """The file that `location` names, if it is a regular file in the model's folder or below.

    Raises:
        ModelError: if it leads out of the folder, also by a link, or is no regular file.
    """
    shown = repr(location[:200])
    if "\0" in location or len(location) > 4096:
        raise ModelError(f"{model} keeps weights in {shown}, which is no name of a file")
    pure = (PurePosixPath(location), PureWindowsPath(location))
    if any(path.is_absolute() or path.anchor or ".." in path.parts for path in pure):
        raise ModelError(
            f"{model} keeps weights in {shown}, which is outside of its folder; nothing there is read"
        )
    path = folder / location
    try:
        resolved, home = path.resolve(strict=True), folder.resolve()
        found = resolved.stat()
    except (OSError, RuntimeError):
        raise ModelError(
            f"{model} keeps weights in {location[:200]}, and there is no such file beside it; put both into one"
            " folder"
        ) from None
    if not follow_links and not resolved.is_relative_to(home):
        raise ModelError(
            f"{model} keeps weights in {shown}, a link to {resolved}, which is outside of its folder; nothing"
            " there is read (put real files into one folder; prune, inspect, score, bench and validate read through"
            " links with --follow-links)"
        )
    if not stat.S_ISREG(found.st_mode):
        raise ModelError(f"{model} keeps weights in {shown}, which is not a regular file")
    return source_at(resolved)
