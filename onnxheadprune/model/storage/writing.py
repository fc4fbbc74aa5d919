"""Writing files: complete in a hidden folder beside the target first, then renamed: no name leads to a part of a file.

The hidden folder is locked while its process lives. If that is killed, the next call that writes the same file or
folder removes it. Folders as outputs, and temporary ones, are made in the same way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
import unicodedata
import weakref
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any, Self

from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.tensors import own_location
from onnxheadprune.model.storage.wire import BINARY
from onnxheadprune.model.typed_json import json_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

WRITER = "onnxheadprune"
MARKDOWN_MARK = f"<!-- written by {WRITER} -->"
JSON_KEY = "written_by"
LONGEST_NAME, LONGEST_PATH = 255, 4095
"""In bytes; what file systems and Linux take."""
ITSELF = "{}"
"""Stands for the name of the model in a name for its data file."""
LOCK, _FOLDER = "lock", "folder"
"""In a hidden folder: the file that is locked while its process lives, and what it is for."""
_ROOM = 180
"""Bytes of a name that are kept in a hidden one."""
_RANDOM, _DIGEST = r"\.[0-9a-f]{16}\.tmp", r"\.[0-9a-f]{16}\.data"
_ENDING = len(".0123456789abcdef.data")


def folded(name: str) -> str:
    """A name as file systems compare it that tell neither cases nor the composition of accents apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _hidden_name(name: str) -> str:
    """The name of a hidden folder for what becomes the file or folder `name`."""
    return f".{_shortened(name)}.{secrets.token_hex(8)}.tmp"


def is_hidden(name: str, owner: str = "") -> bool:
    """Return whether a name is that of a hidden folder, for `owner` or for anything; such folders may be removed."""
    start = re.escape(f".{_shortened(owner)}") if owner else r"\..*"
    return re.fullmatch(start + _RANDOM, name, 0 if owner else re.IGNORECASE | re.DOTALL) is not None


def _shortened(name: str) -> str:
    while len(os.fsencode(name)) > _ROOM:
        name = name[:-1]
    return name


def data_name(target: Path, digest: str) -> str:
    """The name of a model's data file: by content, so that a newer one never replaces an older one."""
    return f"{readable_name(target)}.{digest[:16]}.data"


def is_data_name(name: str, target: Path) -> bool:
    """Return whether `data_name` may give the data file of a model this name."""
    return re.fullmatch(re.escape(readable_name(target)) + _DIGEST, name) is not None


def readable_name(target: Path) -> str:
    """The name of a model as text, which ONNX wants for locations, without what leaves no room for an ending."""
    text = own_location(target)
    while len(text.encode()) > LONGEST_NAME - _ENDING:
        text = text[:-1]
    return text


def named_data(target: Path, pattern: str) -> str:
    """The name of a model's data file as somebody asks for it."""
    check_data_name(pattern)
    return pattern.replace(ITSELF, target.name)


def check_data_name(pattern: str) -> None:
    """Check a name for data files, with `{}` in the place of the model's."""
    made = pattern.replace(ITSELF, "model.onnx")
    if not made or made in (".", "..") or made != PurePosixPath(made).name or "\\" in made or "\0" in made:
        raise UsageError(
            f"the name of a data file is a plain name, not {pattern!r}: it lies beside the model"
        )
    if pattern == ITSELF or len(made.encode(errors="replace")) > LONGEST_NAME:
        raise UsageError(
            f"{pattern!r} is no name for a data file: it needs one of its own, of up to {LONGEST_NAME} bytes"
        )


def _lock(handle: int, *, wait: bool) -> None:
    """Lock an open file or folder until it is closed or the process ends; nothing where there are no locks."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time names models in a folder. The lock ends with the process that holds it."""
    with contextlib.ExitStack() as stack:
        # Windows has no locks, network file systems may have none, and not every folder that takes files can be opened.
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, handle)
            _lock(handle, wait=True)
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold ctrl-C back for a while in which nothing takes long."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    held: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda _number, frame: held.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        before(signal.SIGINT, held[0])


class HiddenFolder:
    """A folder for files that have no names yet. It ends with its process: closed, or, after a kill, swept by the next.

    Attributes:
        target: the file or folder that is to be written.
        path: where the files go.
    """

    def __init__(self, target: Path) -> None:
        """Make the folder beside its target."""
        _sweep(target)
        self.target = target
        self._handle = -1
        try:
            with uninterrupted():
                while self._handle < 0:
                    self._around = target.parent / _hidden_name(target.name)
                    self.path = self._around / _FOLDER
                    self._around.mkdir(mode=0o700)
                    self._take()
                self.path.mkdir()
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        """Lock the new folder, unless another process took it for an abandoned one before."""
        lock = self._around / LOCK
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o600)
            with contextlib.suppress(OSError):  # network file systems without locks
                _lock(handle, wait=True)
            if lock.exists():
                self._handle = handle
            else:
                os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder, with what has got no name."""
        with uninterrupted():
            _remove(self._around, self._handle)
            self._handle = -1


def _remove(around: Path, handle: int) -> None:
    """Remove a hidden folder, its lock at last: what is killed meanwhile leaves something that can be swept."""
    with contextlib.suppress(OSError):
        try:
            if os.path.lexists(around / _FOLDER):
                shutil.rmtree(around / _FOLDER)
        finally:
            if handle >= 0:
                os.close(handle)  # neither Windows nor NFS removes what is open
        (around / LOCK).unlink(missing_ok=True)
        around.rmdir()


def _sweep(target: Path) -> None:
    """Remove the hidden folders for a file or folder whose process is gone. What is another user's stays."""
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            if is_hidden(path.name, target.name):
                with contextlib.suppress(OSError):
                    _sweep_one(path)


def _sweep_one(around: Path) -> None:
    found, lock = around.lstat(), around / LOCK
    if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "geteuid") and found.st_uid != os.geteuid()):
        return
    if not os.path.lexists(lock):
        around.rmdir()  # killed before it was locked, or about to be: then its process makes another one
        return
    if fcntl is None:
        lock.replace(lock)  # Windows refuses that of a file that is open
    handle = os.open(lock, os.O_RDONLY)
    try:
        _lock(handle, wait=False)
    except OSError:
        os.close(handle)
        raise
    _remove(around, handle)


def _temporary() -> HiddenFolder:
    return HiddenFolder(Path(tempfile.gettempdir(), WRITER))


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for what is needed for a while, in the system's place for such."""
    with _temporary() as folder:
        yield folder.path.resolve()


def temporary_folder_of(owner: object) -> Path:
    """The same for as long as an object lives."""
    folder = _temporary()
    weakref.finalize(owner, folder.close)
    return folder.path.resolve()


def finish(made: Path, like: Path) -> None:
    """Complete a file: with the mode and the group of another one, if that is there, and safe from a power cut.

    Where the group stays another, its members may do no more than everybody.
    """
    handle = os.open(made, os.O_RDWR | BINARY)
    try:
        with contextlib.suppress(OSError):
            found = like.stat()
            if stat.S_ISREG(found.st_mode) and hasattr(os, "fchown"):
                mode = stat.S_IMODE(found.st_mode) & 0o777
                with contextlib.suppress(OSError):
                    os.fchown(handle, -1, found.st_gid)
                if os.fstat(handle).st_gid != found.st_gid:
                    mode = (mode & 0o707) | (mode & 0o070 & ((mode & 0o007) << 3))
                os.fchmod(handle, mode)
        os.fsync(handle)
    finally:
        os.close(handle)


def give_name(made: Path, target: Path) -> None:
    """Give a finished file its name, which may be that of a file that is there, in one step."""
    if (why := obstacle(target)) is not None:
        raise OSError(errno.EEXIST, f"it {why}", str(target))
    made.replace(target)


def obstacle(path: Path) -> str | None:
    """Return why an existing path must not be replaced (only regular files may); None if it may."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be written: {error.strerror or error}"
    if stat.S_ISDIR(mode):
        return "is a folder; name a file in it"
    if not stat.S_ISLNK(mode):
        return None if stat.S_ISREG(mode) else "is not a regular file, and nothing else is written to"
    try:
        mode = path.stat().st_mode
    except OSError:
        return "is a link that leads nowhere; name the file itself"
    if stat.S_ISDIR(mode):
        return "is a link to a folder; name a file in it"
    if not stat.S_ISREG(mode):
        return "is a link to something that is not a regular file, and nothing else is written to"
    return f"is a link to {path.resolve()}; name that file"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def require_room(folder: Path, needed: int) -> None:
    """Check whether a file of so many bytes can be in a folder, asked before hours of copying have filled the disk."""
    if not hasattr(os, "statvfs"):
        return
    found = os.statvfs(folder)
    # Some network file systems know neither how large they are nor what is left.
    if found.f_blocks and needed > found.f_bavail * found.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


@contextlib.contextmanager
def sentences(target: Path) -> Iterator[None]:
    """Turn what the system says about writing into a sentence."""
    try:
        yield
    except OSError as error:
        reason = "no space is left" if error.errno == errno.ENOSPC else str(error.strerror or error)
        raise UsageError(f"{target} cannot be written: {reason}") from error


_held: ContextVar[list[tuple[Path, bytes]] | None] = ContextVar("_held", default=None)


@contextlib.contextmanager
def held_back() -> Iterator[list[tuple[Path, bytes]]]:
    """Collect the files that are written meanwhile, all but models: making them may fail, and leaves nothing then."""
    files: list[tuple[Path, bytes]] = []
    token = _held.set(files)
    try:
        yield files
    finally:
        _held.reset(token)


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Make or replace a text file in one step; see `write_file`."""
    # Names of files need not be text; what is none is spelled.
    write_file(Path(target), text.encode(errors="backslashreplace"))


def write_json(target: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Make or replace a JSON document, which says that this tool has written it; see `write_file`."""
    write_text(target, json_text({JSON_KEY: WRITER, **document}, indent=1) + "\n")


def write_markdown(target: str | os.PathLike[str], text: str) -> None:
    """Make or replace a Markdown file, with a comment that this tool has written it; see `write_file`."""
    write_text(target, f"{MARKDOWN_MARK}\n\n{text}")


def write_file(target: Path, data: bytes) -> None:
    """Make or replace a file in one step; it keeps its mode and group. All files but models are made here."""
    held = _held.get()
    if held is not None:
        held.append((target, data))
        return
    with sentences(target), HiddenFolder(target) as hidden:
        made = hidden.path / "file"
        made.write_bytes(data)
        finish(made, target)
        give_name(made, target)
        sync_folder(target.parent)


class Assembly(HiddenFolder):
    """A folder that is filled before it gets its name.

    An existing folder is never replaced, unless it is empty, or kept under another name.
    """

    def __init__(self, target: Path, kept: Path | None = None) -> None:
        """Make the folder.

        Args:
            kept: where the folder is kept that has the name now.
        """
        self.kept = kept
        with sentences(target):
            super().__init__(target)

    def place(self, name: str) -> Path:
        """Return the path for a file of the folder; its parent folders are created."""
        path = self.path.joinpath(*PurePosixPath(name).parts)
        with sentences(self.target / name):
            path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, "this call has written a file there already")
        return path

    def copy(self, source: Path, name: str) -> None:
        """Copy a file, with its rights."""
        path = self.place(name)
        with sentences(self.target):
            shutil.copyfile(source, path)
            finish(path, source)

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        write_file(self.place(name), data)

    def commit(self) -> None:
        """Give the folder its name, in one step."""
        with sentences(self.target), uninterrupted():
            for folder, _, _ in os.walk(self.path):
                sync_folder(Path(folder))
            if self.kept is not None:
                os.rename(self.target, self.kept)  # noqa: PTH104
            try:
                # Replaces an empty folder, and nothing else.
                os.rename(self.path, self.target)  # noqa: PTH104
            except OSError as error:
                if self.kept is not None:
                    os.rename(self.kept, self.target)  # noqa: PTH104
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise FileExistsError(errno.EEXIST, "something is there by now") from error
                raise
            sync_folder(self.target.parent)
