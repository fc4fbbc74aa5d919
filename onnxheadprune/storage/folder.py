"""A folder that files are put into: nameless until they are complete, one writer at a time, no litter."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxheadprune.errors import ModelError, UsageError
from onnxheadprune.storage.spans import is_outside, span_of
from onnxheadprune.storage.tensors import tensors_of
from onnxheadprune.storage.wire import WireError, structure

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
TEMPORARY = ".tmp"


class Draft:
    """A file of a folder that has no name yet, or a hidden one where the file system knows no other way."""

    def __init__(self, folder: Path, name: str) -> None:
        """Opens an empty file.

        Raises:
            OSError: if the folder takes no files.
        """
        self.folder = folder
        self.hidden: Path | None = None
        self.handle = self._nameless()
        if self.handle < 0:
            self.hidden = _hidden_name(folder, name)
            self.handle = os.open(self.hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            self._lock()
        self.name = name

    def _lock(self) -> None:
        """Shows others that the process behind a hidden name lives."""
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _nameless(self) -> int:
        if not hasattr(os, "O_TMPFILE") or not Path("/proc/self/fd").is_dir():
            return -1
        try:
            return os.open(self.folder, os.O_TMPFILE | os.O_RDWR, 0o666)
        except OSError as error:
            if error.errno in _NO_TMPFILE:
                return -1
            raise

    @property
    def path(self) -> Path:
        """A path under which this process can read the file."""
        return Path(f"/proc/self/fd/{self.handle}") if self.hidden is None else self.hidden

    def show(self) -> None:
        """Gives the file a hidden name, if it has none.

        Raises:
            OSError: if it cannot be linked.
        """
        if self.hidden is None:
            self._lock()
            hidden = _hidden_name(self.folder, self.name)
            self.link(hidden)
            self.hidden = hidden

    def link(self, target: Path) -> None:
        """Gives the complete file its name.

        Raises:
            FileExistsError: if the name is taken.
            OSError: if it cannot be linked.
        """
        if self.hidden is not None:
            os.link(self.hidden, target)
            self.hidden.unlink()
            self.hidden = None
            return
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            # Only with a folder's handle Python asks the system to follow the link to the open file.
            os.link(self.path, target, src_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)

    def replace(self, target: Path) -> None:
        """Gives the complete file the name of one that is there, in one step.

        Raises:
            OSError: if it cannot be renamed.
        """
        self.show()
        assert self.hidden is not None
        self.hidden.replace(target)
        self.hidden = None

    def close(self) -> None:
        """Closes the file; without a name it is gone."""
        if self.hidden is not None:
            self.hidden.unlink(missing_ok=True)
            self.hidden = None
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def _hidden_name(folder: Path, name: str) -> Path:
    return folder / f".{name[:180]}.{secrets.token_hex(8)}{TEMPORARY}"


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time gives names in a folder. The lock goes with the process that holds it."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # network file systems without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def data_name(target: Path, digest: str) -> str:
    """Name of the data file of a model: by content, so that a newer one never takes the place of an older."""
    return f"{target.name}.{digest[:16]}.data"


def sweep_up(target: Path) -> None:
    """Removes what killed runs and replaced models left: data files of `target` that no model here refers to.

    Only to be called under the lock. Where there is any doubt, a file stays.
    """
    folder = target.parent
    ours = re.compile(re.escape(target.name) + r"\.[0-9a-f]{16}\.data")
    hidden = re.compile(re.escape(f".{target.name[:180]}.") + r"[0-9a-f]{16}" + re.escape(TEMPORARY))
    names = [path.name for path in folder.iterdir()]
    for name in filter(hidden.fullmatch, names):
        _remove_if_abandoned(folder / name)
    left = {name for name in names if ours.fullmatch(name)}
    if len(left) > 1 or (left and not left <= _locations(target)):
        for name in names:
            left -= _locations(folder / name) if not ours.fullmatch(name) else set()
        for name in left:
            (folder / name).unlink(missing_ok=True)


def _remove_if_abandoned(path: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(handle)


def _locations(path: Path) -> set[str]:
    """The files that a model refers to; none if the file is no model."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return set()
        with path.open("rb") as stream:
            light, _ = structure(stream.fileno(), path.name)
        model = ModelProto.FromString(light)
        return {span_of(item.tensor).location for item in tensors_of(model) if is_outside(item.tensor)}
    except (OSError, WireError, DecodeError, ModelError):
        return set()


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Replaces a small text file in one step.

    Raises:
        UsageError: if it cannot be written; an older file stays as it was.
    """
    try:
        write_file(Path(target), text.encode())
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}") from error


def write_file(target: Path, data: bytes) -> None:
    """Replaces a small file in one step.

    Raises:
        OSError: if it cannot be written; an older file stays as it was.
    """
    draft = Draft(target.parent, target.name)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(draft.handle, view) :]
        os.fsync(draft.handle)
        draft.replace(target)
    finally:
        draft.close()
