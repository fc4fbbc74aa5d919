"""Files that one call has written: none of them is replaced by what the same call writes later.

Names that are known before are checked before any work (`claims`). Some are made from content and known at the end
only, so whoever gives a file its name asks here too, whatever the name is.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

_call: ContextVar[dict[tuple[int, int], bool] | None] = ContextVar("_call", default=None)
"""Files by device and inode, and whether the call renews them: a record of what is done so far."""


@contextlib.contextmanager
def one_call() -> Iterator[None]:
    """Take all that is written meanwhile as the output of one call; a call within a call is a part of it."""
    if _call.get() is not None:
        yield
        return
    token = _call.set({})
    try:
        yield
    finally:
        _call.reset(token)


def require_unwritten(target: Path, *, renewed: bool = False) -> None:
    """Ask before a file is replaced.

    Args:
        target: the file; it need not be there.
        renewed: it is a record that one call writes again and again.

    Raises:
        FileExistsError: if this call has written what is there.
    """
    written = _call.get()
    if not written:
        return
    try:
        found = target.lstat()
    except OSError:
        return
    earlier = written.get((found.st_dev, found.st_ino))
    if earlier is not None and not (earlier and renewed):
        raise FileExistsError(errno.EEXIST, "this call has written a file there already", str(target))


def note_written(found: os.stat_result, *, renewed: bool = False) -> None:
    """Remember a file that has its name now."""
    written = _call.get()
    if written is not None:
        written[found.st_dev, found.st_ino] = renewed


def written_files() -> frozenset[tuple[int, int]]:
    """Device and inode of what this call has written so far."""
    return frozenset(_call.get() or ())
