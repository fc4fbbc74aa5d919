"""A folder that files are put into: nameless until they are complete, one writer at a time, no litter.

No file that one call has written is replaced by a later file of the same call. Names that are known before are checked
before any work (`claims`); some are made from content and known at the end only, so they are checked here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.claims import NO_TMPFILE, obstacle
from onnxheadprune.model.storage.names import hidden_name, is_hidden
from onnxheadprune.model.storage.provenance import JSON_KEY, MARKDOWN_MARK, WRITER
from onnxheadprune.model.storage.system import (
    BINARY,
    NO_LINKS,
    RENAMES_OPEN,
    hard_link,
    lock,
    locked,
    remove_if_abandoned,
)
from onnxheadprune.model.typed_json import json_text

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
    """Ask before a file is replaced."""
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


class Draft:
    """A file of a folder that has no name yet, or a hidden one where the file system knows no other way."""

    def __init__(
        self, folder: Path, name: str, like: Path | None = None, *, under_lock: bool = False
    ) -> None:
        """Open an empty file.

        Args:
            like: a file, if it is there, whose owner and mode the new one gets, before anything is in it.
        """
        self.folder = folder
        self.hidden: Path | None = None
        self._closed: os.stat_result | None = None
        self.handle = self._nameless()
        if self.handle < 0:
            # Under the lock, so that nobody takes a file that is not locked yet for an abandoned one.
            with contextlib.nullcontext() if under_lock else locked(folder):
                self.hidden = folder / hidden_name(name)
                self.handle = os.open(self.hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
                self._lock()
        self.name = name
        if like is not None:
            self._take_after(like)

    def _take_after(self, like: Path) -> None:
        """Give the file the owner and mode of another one, as far as the system lets us.

        Where the group stays another, its members may do no more than everybody.
        """
        try:
            found = like.stat()
        except OSError:
            return
        if not stat.S_ISREG(found.st_mode) or not hasattr(os, "fchown"):
            return
        mode = stat.S_IMODE(found.st_mode) & 0o777
        with contextlib.suppress(OSError):
            os.fchown(self.handle, -1, found.st_gid)
        with contextlib.suppress(OSError):
            os.fchown(self.handle, found.st_uid, -1)
        if os.fstat(self.handle).st_gid != found.st_gid:
            mode = (mode & 0o707) | (mode & 0o070 & ((mode & 0o007) << 3))
        with contextlib.suppress(OSError):
            os.fchmod(self.handle, mode)

    def _lock(self) -> None:
        """Show others that the process behind a hidden name lives."""
        with contextlib.suppress(OSError):
            lock(self.handle)

    def _nameless(self) -> int:
        if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
            return -1
        try:
            return os.open(self.folder, os.O_TMPFILE | os.O_RDWR, 0o666)
        except OSError as error:
            if error.errno in NO_TMPFILE:
                return -1
            raise

    @property
    def path(self) -> Path:
        """A path under which this process can read the file."""
        return Path(f"/proc/self/fd/{self.handle}") if self.hidden is None else self.hidden

    def show(self) -> None:
        """Give the file a hidden name, if it has none."""
        if self.hidden is None:
            self._lock()
            hidden = self.folder / hidden_name(self.name)
            self.link(hidden)
            self.hidden = hidden

    def link(self, target: Path) -> None:
        """Give the complete file its name. To be called under the lock."""
        if self.hidden is not None:
            self._let_go()
            try:
                hard_link(self.hidden, target)
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                if os.path.lexists(target):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
                self.hidden.replace(target)
            else:
                self.hidden.unlink()
            self.hidden = None
            return
        folder = os.open(self.folder, getattr(os, "O_PATH", os.O_RDONLY))
        try:
            # Only with a folder's handle Python asks the system to follow the link to the open file.
            os.link(self.path, target, src_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)

    def _replace(self, target: Path) -> None:
        """Give the complete file the name of one that is there, in one step."""
        self.show()
        assert self.hidden is not None
        self._let_go()
        self.hidden.replace(target)
        self.hidden = None

    def put(self, target: Path, *, renewed: bool = False) -> None:
        """Give the complete file its name, which may be that of a file that is there. To be called under the lock."""
        require_unwritten(target, renewed=renewed)
        if (why := obstacle(target)) is not None:
            raise OSError(errno.EEXIST, f"it {why}", str(target))
        if os.path.lexists(target):
            self._replace(target)
        else:
            self.link(target)
        note_written(self.stat(), renewed=renewed)

    def stat(self) -> os.stat_result:
        """Return the facts of the file, also once it had to be closed to get its name."""
        return self._closed or os.fstat(self.handle)

    def _let_go(self) -> None:
        if not RENAMES_OPEN and self._closed is None:
            self._closed = os.fstat(self.handle)
            os.close(self.handle)
            self.handle = -1

    def close(self) -> None:
        """Close the file; without a name it is gone."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
        if self.hidden is not None:
            self.hidden.unlink(missing_ok=True)
            self.hidden = None


def require_room(folder: Path, needed: int) -> None:
    """Check whether a file of so many bytes can be in a folder, asked before hours of copying have filled the disk."""
    if not hasattr(os, "statvfs"):
        return
    found = os.statvfs(folder)
    # Some network file systems know neither how large they are nor what is left.
    if found.f_blocks and needed > found.f_bavail * found.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class HeldFile:
    """A file that is complete and waits to be written."""

    target: Path
    data: bytes
    renewed: bool

    def write(self) -> None:
        """Write it."""
        write_file(self.target, self.data, renewed=self.renewed)


_held: ContextVar[list[HeldFile] | None] = ContextVar("_held", default=None)


@contextlib.contextmanager
def held_back() -> Iterator[list[HeldFile]]:
    """Collect the files that are written meanwhile, all but models: making them may fail, and leaves nothing then."""
    files: list[HeldFile] = []
    token = _held.set(files)
    try:
        yield files
    finally:
        _held.reset(token)


def write_text(target: str | os.PathLike[str], text: str, *, renewed: bool = False) -> None:
    """Make or replace a text file in one step; see `write_file`."""
    # Names of files need not be text; what is none is spelled.
    write_file(Path(target), text.encode(errors="backslashreplace"), renewed=renewed)


def write_json(target: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Make or replace a JSON document, which says that this tool has written it; see `write_file`."""
    write_text(target, json_text({JSON_KEY: WRITER, **document}, indent=1) + "\n")


def write_markdown(target: str | os.PathLike[str], text: str) -> None:
    """Make or replace a Markdown file, with a comment that this tool has written it; see `write_file`."""
    write_text(target, f"{MARKDOWN_MARK}\n\n{text}")


def write_file(target: Path, data: bytes, *, renewed: bool = False) -> None:
    """Make or replace a file in one step; it keeps its owner and mode. All files but models are made here.

    Args:
        renewed: one call writes this file again and again, as a record of what is done; else it writes it once.
    """
    held = _held.get()
    if held is not None:
        held.append(HeldFile(target, data, renewed))
        return
    with sentences(target):
        draft = Draft(target.parent, target.name, like=target)
        try:
            write_all(draft.handle, data)
            os.fsync(draft.handle)
            with locked(target.parent):
                draft.put(target, renewed=renewed)
                sync_folder(target.parent)
                with contextlib.suppress(OSError):
                    sweep_hidden(target)
        finally:
            draft.close()


def write_all(handle: int, data: bytes) -> None:
    """Write at the current position until nothing is left."""
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view[: 2**30]) :]


@contextlib.contextmanager
def sentences(target: Path) -> Iterator[None]:
    """Turn what the system says about writing into a sentence."""
    try:
        yield
    except OSError as error:
        reason = "no space is left" if error.errno == errno.ENOSPC else str(error.strerror or error)
        raise UsageError(f"{target} cannot be written: {reason}") from error


def sweep_hidden(target: Path) -> None:
    """Remove hidden files of `target` whose process is gone. Only to be called under the lock."""
    for path in target.parent.iterdir():
        if is_hidden(path.name, target.name):
            remove_if_abandoned(path)
