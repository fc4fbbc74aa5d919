"""Calls of the operating system that not every system has, and what stands in for them.

Linux has all of them, macOS neither unnamed files nor /proc, Windows none but hard links.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import multiprocessing
import os
import secrets
import shutil
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BINARY = getattr(os, "O_BINARY", 0)
"""Windows translates the ends of lines in what is opened without it."""
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
"""Errors of file systems without hard links, of folders that are guarded against them, and of other mounts."""
RENAMES_OPEN = fcntl is not None
"""Windows neither renames nor removes what is open."""
TEMPORARY = "onnxheadprune-"
"""The prefix of the names of temporary folders."""
LOCK = "lock"
"""The file that is locked while the process lives that made the folder."""


def read_at(handle: int, size: int, offset: int) -> bytes:
    """Read up to `size` bytes of an open file at a position."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    before = os.lseek(handle, 0, os.SEEK_CUR)
    try:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, size)
    finally:
        os.lseek(handle, before, os.SEEK_SET)


def hard_link(source: Path, target: Path) -> None:
    """Give a file a second name."""
    if not hasattr(os, "link"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(source))
    os.link(source, target)


def lock(handle: int, *, wait: bool = False) -> None:
    """Lock an open file or folder until it is closed or the process ends; nothing where there are no locks."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time gives names in a folder. The lock ends with the process that holds it."""
    handle = -1
    if fcntl is not None:
        with contextlib.suppress(PermissionError):  # a folder that may be written and not be listed
            handle = os.open(folder, os.O_RDONLY)
    try:
        if handle >= 0:
            with contextlib.suppress(OSError):  # network file systems without locks
                lock(handle, wait=True)
        yield
    finally:
        if handle >= 0:
            os.close(handle)


@contextlib.contextmanager
def _taken(path: Path) -> Iterator[None]:
    """Hold the lock of a regular file."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
    if fcntl is None:
        path.replace(path)  # Windows refuses that of a file that is open
        yield
        return
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        lock(handle)
        yield
    finally:
        os.close(handle)


def remove_if_abandoned(path: Path) -> None:
    """Remove a regular file whose lock no process holds."""
    with contextlib.suppress(OSError), _taken(path):
        path.unlink()


def end_with_parent() -> None:
    """End this process, started by `multiprocessing`, with the one that started it, also if that is killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class OwnFolder:
    """A folder that ends with its maker: closed, or, after that was killed, swept by the next.

    Attributes:
        path: the folder, in which the file `lock` shows that this process lives.
    """

    def __init__(self, name: Callable[[], Path]) -> None:
        """Make the folder."""
        while True:
            self.path = name()
            self.path.mkdir(mode=0o700)
            try:
                self._handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o600)
            except FileNotFoundError:  # swept while it was still empty
                continue
            try:
                lock(self._handle)
            except BlockingIOError:  # somebody who took it for abandoned is about to remove it
                os.close(self._handle)
                continue
            except OSError:  # network file systems without locks
                return
            if (self.path / LOCK).exists():
                return
            os.close(self._handle)

    def close(self) -> None:
        """Remove the folder with everything in it."""
        if self._handle >= 0:
            if not RENAMES_OPEN:
                os.close(self._handle)
            with contextlib.suppress(OSError):
                _remove(self.path)
            if RENAMES_OPEN:
                os.close(self._handle)
            self._handle = -1


def _remove(folder: Path) -> None:
    """Remove a folder, its lock at last: what is killed meanwhile leaves something that can be swept."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    (folder / LOCK).unlink()
    folder.rmdir()


def sweep_folders(paths: Iterable[Path]) -> None:
    """Remove those folders of `OwnFolder` whose maker is gone. What is no such folder, or another user's, stays."""
    for path in paths:
        with contextlib.suppress(OSError):
            found = path.lstat()
            own = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
            if not stat.S_ISDIR(found.st_mode) or not own:
                continue
            if not os.path.lexists(path / LOCK):
                path.rmdir()  # killed before it could lock, or about to: then its maker makes another one
                continue
            with _taken(path / LOCK):
                _remove(path)


def _new_temporary() -> OwnFolder:
    around = Path(tempfile.gettempdir())
    _sweep_once(around)
    return OwnFolder(lambda: around / f"{TEMPORARY}{secrets.token_hex(8)}")


@functools.cache
def _sweep_once(around: Path) -> None:
    sweep_folders(around.glob(f"{TEMPORARY}*"))


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for what is needed for a while, in the system's place for such; those of killed calls are removed."""
    folder = _new_temporary()
    try:
        yield folder.path.resolve()
    finally:
        folder.close()


def temporary_folder_of(owner: object) -> Path:
    """The same for as long as an object lives."""
    folder = _new_temporary()
    weakref.finalize(owner, folder.close)
    return folder.path.resolve()
