"""Checks of files that a call reads and writes: nothing is replaced but outputs that this tool wrote, or with --force.

Two paths are one file if they lead to the same device and inode; a path that does not exist yet is its
folder's identity and its name. So relative paths, links, hard links and case-insensitive file systems
are handled. All checks run before any work. The rules are listed in docs/promises.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from onnxheadprune.errors import UsageError, named_setting
from onnxheadprune.model.storage.names import LONGEST_NAME, LONGEST_PATH, folded, is_data_name, is_hidden
from onnxheadprune.model.storage.provenance import backup_names, is_written_by_us
from onnxheadprune.model.storage.system import read_at

Identity: TypeAlias = tuple[int, int, str]
"""Device, inode and, of what does not exist yet, the path below the folder that these two are of."""
FileKind: TypeAlias = Literal["file", "new", "folder", "new folder", "model", "data"]
NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
"""Errors of systems and file systems without nameless files."""
_HEAD = 2**14
MODEL_SUFFIXES = (".onnx", "")
_force: ContextVar[bool] = ContextVar("_force", default=False)
"""True if files that this tool has not written may be replaced."""


@contextlib.contextmanager
def replacing(force: bool) -> Iterator[None]:
    """Let calls within replace only files that this tool has written, or any with `force`."""
    token = _force.set(force)
    try:
        yield
    finally:
        _force.reset(token)


def is_forced() -> bool:
    """Return whether this call asks to replace files that this tool has not written."""
    return _force.get()


@dataclass(frozen=True)
class Reading:
    """A file or a folder of files that the call reads."""

    what: str  # its name in messages: "the model", "--data"
    path: Path


@dataclass(frozen=True)
class Making:
    """A file that the call writes."""

    what: str  # its name in messages: "the output", "--report"
    path: Path
    spelled: str = ""  # the path as written by the user; `path` has no trailing slash
    # "file" may replace a file, "new" must not exist yet, "folder" is created if needed, "new folder" appears
    # at once, and replaces nothing but an empty folder. "model" is a file whose weights may go into external
    # data, named by its content; "data" is separately named external data, which may be copied with the model
    # to case-insensitive file systems.
    kind: FileKind = "file"
    # bytes near the start of files that may be replaced, for files that the user did not name
    mark: bytes = b""
    replaces: str = ""  # the input that it may replace: the model, in place
    # a file that an existing "new" file must equal: the backup of an interrupted run; the folder that a "new
    # folder" is made from
    copy_of: Path | None = None
    suffixes: tuple[str, ...] = ()  # how its name may end; () for any name
    recorded: bool = False  # a record beside it specifies which files are of earlier runs

    def __str__(self) -> str:
        text = str(self.path)
        return f"{self.what} {text if len(text) <= 300 else f'{text[:80]}...'}"


def check_makings(makings: Sequence[Making], readings: Callable[[], Iterable[Reading]]) -> None:
    """Check that all files of a call can be written, and none is another one or an input.

    Args:
        readings: returns every file that it reads; called only if a file to write exists.
    """
    for making in makings:
        try:
            _check_alone(making)
        except OSError as error:
            raise UsageError(f"{making} cannot be written: {error.strerror or error}") from error
    check_distinct(makings, readings)
    for making in makings:
        _check_suffix(making)
        _check_replaced(making)


def check_distinct(makings: Sequence[Making], readings: Callable[[], Iterable[Reading]]) -> None:
    """Check that no output of a call is another output, or an input."""
    _check_each_other(makings)
    # A "new" file replaces nothing: where one is there, it is the backup of an interrupted run, maybe a link.
    there = [
        making
        for making in makings
        if "new" not in making.kind and making.kind != "folder" and os.path.lexists(making.path)
    ]
    if not there:
        return
    known: dict[Identity, Reading] = {}
    exempt: dict[str, set[Identity]] = {}
    for reading in readings():
        for path in _files_of(reading.path):
            if (found := identity(path)) is not None:
                known.setdefault(found, Reading(reading.what, path))
                exempt.setdefault(reading.what, set()).add(found)
    for making in there:
        own = identity(making.path)
        if own in known and not (making.replaces and own in exempt.get(making.replaces, ())):
            read = known[own]
            raise UsageError(
                f"{making} would replace {read.what} {read.path}, which this call reads; choose another path"
            )


def named_files(what: str, value: object) -> Iterator[Reading]:
    """The files that a value of an argument names: a path, or the module of "module:function"."""
    if (
        not isinstance(value, (str, os.PathLike))
        or not (text := os.fspath(value))
        or not isinstance(text, str)
    ):
        return
    if _found(Path(text)) is not None:
        yield Reading(what, Path(text))
    module, colon, _ = text.rpartition(":")
    if colon and all(part.isidentifier() for part in module.split(".")):
        parts = module.split(".")
        for folder in (Path(), *map(Path, sys.path)):
            below = folder.joinpath(*parts)
            for path in (below.with_suffix(".py"), below / "__init__.py"):
                if path.is_file():
                    yield Reading(what, path)


def identity(path: Path) -> Identity | None:
    """Return the identity of a path; relative to the nearest existing folder if it does not exist."""
    nearest = path
    while (found := _found(nearest)) is None:
        if nearest == nearest.parent:
            return None
        nearest = nearest.parent
    return found.st_dev, found.st_ino, "/".join(path.parts[len(nearest.parts) :])


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def obstacle(path: Path) -> str | None:
    """Return why an existing path must not be replaced (only regular files may); None if it may."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be written: {error.strerror or error}"
    if stat.S_ISLNK(mode):
        found = _found(path)
        if found is None:
            return "is a link that leads nowhere; name the file itself"
        if stat.S_ISDIR(found.st_mode):
            return "is a link to a folder; name a file in it"
        if not stat.S_ISREG(found.st_mode):
            return "is a link to something that is not a regular file, and nothing else is written to"
        return f"is a link to {path.resolve()}; name that file"
    if stat.S_ISDIR(mode):
        return "is a folder; name a file in it"
    return None if stat.S_ISREG(mode) else "is not a regular file, and nothing else is written to"


def _names_a_folder(spelled: str) -> bool:
    """Return whether a path is written with a trailing slash, which `Path` drops."""
    ends = tuple(f"{separator}{dot}" for separator in (os.sep, os.altsep) if separator for dot in ("", "."))
    return spelled.endswith(ends)


def is_same_entry(left: Path, right: Path) -> bool:
    """Return whether two paths are the same entry of a folder, so that replacing one replaces the other."""
    if identity(left.parent) != identity(right.parent) or folded(left.name) != folded(right.name):
        return False
    return left.name == right.name or not _tells_cases_apart(left.parent)


def is_same_content(left: Path, right: Path) -> bool:
    """Return whether two regular files (not links) hold the same bytes."""
    one = left.lstat()
    if not stat.S_ISREG(one.st_mode):
        return False
    if os.path.samestat(one, right.lstat()):
        return True
    with left.open("rb") as stream:
        return holds(right, stream.fileno())


def holds(path: Path, handle: int) -> bool:
    """Return whether a regular file (not a link) holds the bytes of an open file."""
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size != os.fstat(handle).st_size:
        return False
    position = 0
    with path.open("rb") as stream:
        while block := stream.read(2**20):
            if read_at(handle, len(block), position) != block:
                return False
            position += len(block)
    return True


def _check_alone(making: Making) -> None:
    _check_name(making)
    if making.kind in ("folder", "new folder"):
        _check_folder(making)
        return
    if _names_a_folder(making.spelled):
        raise UsageError(f"{making.what} {making.spelled} is a folder; name a file in it")
    folder = making.path.parent
    if not _is_dir(folder):
        wrong = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"the folder {folder} {wrong}")
    if (why := obstacle(making.path)) is not None:
        raise UsageError(f"{making} {why}")
    if (why := _unwritable(folder)) is not None:
        raise UsageError(f"{making.path} cannot be written: its folder is not writable ({why})")
    if making.kind == "new" and making.path.exists():
        if making.copy_of is not None and is_same_entry(making.copy_of, making.path):
            raise UsageError(f"{making} is the model itself; name another file")
        if not (making.copy_of and making.copy_of.exists() and is_same_content(making.copy_of, making.path)):
            raise UsageError(f"{making} exists already, and is no copy of the model; it is never overwritten")


def _check_suffix(making: Making) -> None:
    suffixes = making.suffixes or (MODEL_SUFFIXES if making.kind == "model" and not making.replaces else ())
    if suffixes and making.path.suffix.lower() not in suffixes:
        raise UsageError(f"{making} must end in {' or '.join(filter(None, suffixes))}")


def _check_replaced(making: Making) -> None:
    """Check that the file which an output would replace is one that this tool has written."""
    if making.kind not in ("file", "model") or making.replaces or making.recorded or not making.path.exists():
        return
    if making.mark:
        if making.mark not in _head(making.path):
            raise UsageError(
                f"{making} is there and is not what this tool would write, so it is not replaced; choose another name"
                " for the output"
            )
    elif not _force.get() and not is_written_by_us(making.path):
        raise UsageError(
            f"{making} exists, and was not written by this tool; choose another path, or replace it with"
            f" {named_setting('force')}"
        )


def _check_name(making: Making) -> None:
    text = os.fspath(making.path)
    try:
        size, longest = (
            len(os.fsencode(text)),
            max(len(os.fsencode(part)) for part in ("", *making.path.parts)),
        )
    except UnicodeError:
        raise UsageError(f"{making.what} {text!r:.80} is no name of a file here") from None
    if "\0" in text:
        raise UsageError(f"{making.what} holds a zero byte, which no name of a file does")
    if size > LONGEST_PATH:
        raise UsageError(
            f"{making} is longer than the {LONGEST_PATH:,} bytes of a path; choose a shorter one"
        )
    if longest > LONGEST_NAME:
        raise UsageError(f"{making} has a name of more than {LONGEST_NAME} bytes; choose a shorter one")
    if is_hidden(making.path.name):
        raise UsageError(
            f"{making} has the name of a temporary file of this tool, which it removes; choose another"
        )


def _check_folder(making: Making) -> None:
    folder = making.path
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not _is_dir(folder):
        raise UsageError(
            f"{making} is not a folder" if folder == making.path else f"{folder} is not a folder"
        )
    if (why := _unwritable(folder)) is not None:
        raise UsageError(f"the folder {folder} cannot be written: {why}")
    if making.kind == "new folder":
        assert making.copy_of is not None
        _check_new_folder(making.path, making.copy_of)


def _check_new_folder(target: Path, source: Path) -> None:
    if not target.name or target.name in (".", ".."):
        raise UsageError(f"the output {target} has no name; name a folder that is not there yet")
    if target.is_symlink():
        raise UsageError(f"the output {target} is a link; name the folder itself")
    if target.is_dir() and identity(target) == identity(source):
        raise UsageError(f"the output {target} is the folder that is read; name another one")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(
            f"the output {target} is a folder with files in it, and none is ever replaced; name one that is not"
            " there yet"
        )
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist")
    if target.resolve().is_relative_to(source.resolve()):
        raise UsageError(
            f"the output {target} lies in the folder that is read, where nothing is changed; name a place outside"
        )


def _is_dir(path: Path) -> bool:
    found = _found(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def _unwritable(folder: Path) -> str | None:
    """Return why a folder is not writable, tested with an unnamed file; None if it is."""
    try:
        if hasattr(os, "O_TMPFILE"):
            try:
                os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600))
            except OSError as error:
                if error.errno not in NO_TMPFILE:
                    raise
            else:
                return None
        probe = folder / f".{secrets.token_hex(8)}.tmp"
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        probe.unlink()
    except OSError as error:
        return str(error.strerror or error)
    return None


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_HEAD)


def _check_each_other(makings: Sequence[Making]) -> None:
    seen: dict[Identity, Making] = {}
    spelled: dict[Identity, list[Making]] = {}
    for making in makings:
        own, around = identity(making.path), identity(making.path.parent)
        if own is None or around is None:
            continue
        place = around[0], around[1], folded(f"{around[2]}/{making.path.name}")
        alike = spelled.setdefault(place, [])
        other = seen.get(own) or next((item for item in alike if _may_be_one(item, making)), None)
        if other is not None and making.copy_of != other.path:
            raise UsageError(f"{other} and {making} are the same file; give each its own")
        seen[own] = making
        alike.append(making)
    for making in makings:
        if making.kind == "model":
            _check_made_names(making, makings)
        elif making.kind in ("folder", "new folder"):
            _check_below(making, makings)


def _may_be_one(one: Making, other: Making) -> bool:
    """Return whether two names that differ only in case or accents may be one file, here or on another file system."""
    return "data" in (one.kind, other.kind) or not _tells_cases_apart(other.path.parent)


def _check_made_names(model: Making, makings: Sequence[Making]) -> None:
    """Check that no output has a possible content-derived name of a model's weights."""
    target = model.path.with_name(folded(model.path.name))
    folder = identity(target.parent)
    for making in makings:
        if is_data_name(folded(making.path.name), target) and identity(making.path.parent) == folder:
            raise UsageError(
                f"{making} has a name that the weights of {model} may get by their content; choose another"
            )


def _check_below(folder: Making, makings: Sequence[Making]) -> None:
    """Check that no output lies in a folder that is made as a whole."""
    own = identity(folder.path)
    for making in makings:
        if making is not folder and any(identity(above) == own for above in making.path.absolute().parents):
            raise UsageError(f"{making} lies in {folder}, which is made as a whole; choose a place outside")


def _tells_cases_apart(folder: Path) -> bool:
    """Return whether the nearest existing folder distinguishes names by case and by the composition of accents."""
    name = f".{secrets.token_hex(8)}-\u00e9.tmp"
    while not _is_dir(folder) and folder != folder.parent:
        folder = folder.parent
    probe, spread = folder / name, unicodedata.normalize("NFD", name)
    try:
        os.close(os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            return not any(
                os.path.lexists(folder / other) for other in (spread, spread.upper(), name.upper())
            )
        finally:
            probe.unlink()
    except (OSError, UnicodeError):
        return False


def _files_of(path: Path) -> Iterator[Path]:
    """The file itself, or all files of a folder and those below."""
    if not _is_dir(path):
        yield path
        return
    for folder, _, names in os.walk(path, followlinks=False):
        for name in names:
            yield Path(folder) / name


def backup_path(model: Path) -> Path:
    """A name beside a model that is free, or whose file is the model, as an interrupted run leaves it."""
    return next(name for name in backup_names(model) if not os.path.lexists(name) or _is_copy(model, name))


def _is_copy(model: Path, other: Path) -> bool:
    try:
        return is_same_content(other, model)
    except OSError:
        return False
