"""Checks of files that a call reads and writes: nothing is replaced but outputs that this tool wrote, or with --force.

Two paths are one file if they lead to the same device and inode; a path that does not exist yet is its
folder's identity and its name. So relative paths, links and hard links are handled; names that some file system takes
for one are one. All checks run before any work. The rules are told in docs/large-models.md.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.stage import is_same_content, is_same_entry
from onnxheadprune.model.storage.tensors import own_location
from onnxheadprune.model.storage.wire import WireError, structure
from onnxheadprune.model.storage.writing import (
    LONGEST_NAME,
    LONGEST_PATH,
    WRITER,
    HiddenFolder,
    folded,
    is_data_name,
    is_hidden,
    obstacle,
)

Identity: TypeAlias = tuple[int, int, str]
"""Device, inode and, of what does not exist yet, the path below the folder that these two are of."""
FileKind: TypeAlias = Literal["file", "new", "folder", "new folder", "model", "data"]
MODEL_SUFFIXES = (".onnx", "")
_HEAD = 2**14
_MARKS = re.compile(
    rb"\s*<!doctype html>[^<]*<html[^>]*>\s*<head>\s*<meta charset=\"utf-8\">\s*"
    rb'<meta name="generator" content="onnxheadprune">'
    rb"|<!-- written by onnxheadprune -->"
    rb'|\{\s*"written_by": "onnxheadprune"'
    rb"|site,unit,score,method,means\r?\n|model,provider,batch,seq,past,p50_ms,"
    rb'|<\?xml [^>]*>\s*<testsuites[^>]* name="onnxheadprune"'
    rb"|\x89PNG\r\n\x1a\n.{25}.{4}tEXtSoftware\0onnxheadprune"
    rb"|<\?xml .{,1500}<dc:title>onnxheadprune"
    rb"|%PDF.*/Creator \(onnxheadprune",
    re.DOTALL,
)
"""The first bytes of files that this tool writes; of a PDF the last ones."""
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
    # data, named by its content; "data" is separately named external data.
    kind: FileKind = "file"
    # bytes near the start of files that may be replaced, for files that the user did not name
    mark: bytes = b""
    replaces: str = ""  # the input that it may replace: the model, in place
    # a file that an existing "new" file must equal: the backup of an interrupted run; the folder that a "new
    # folder" is made from
    copy_of: Path | None = None
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


def _check_alone(making: Making) -> None:
    _check_name(making)
    if making.kind in ("folder", "new folder"):
        _check_folder(making)
        return
    # `Path` drops a trailing slash.
    ends = tuple(f"{separator}{dot}" for separator in (os.sep, os.altsep) if separator for dot in ("", "."))
    if making.spelled.endswith(ends):
        raise UsageError(f"{making.what} {making.spelled} is a folder; name a file in it")
    folder = making.path.parent
    if not _is_dir(folder):
        wrong = "is not a folder" if folder.exists() else "does not exist"
        raise UsageError(f"the folder {folder} {wrong}")
    if (why := obstacle(making.path)) is not None:
        raise UsageError(f"{making} {why}")
    if (why := _unwritable(making.path)) is not None:
        raise UsageError(f"{making.path} cannot be written: its folder is not writable ({why})")
    if making.kind == "new" and making.path.exists():
        if making.copy_of is not None and is_same_entry(making.copy_of, making.path):
            raise UsageError(f"{making} is the model itself; name another file")
        if not (making.copy_of and making.copy_of.exists() and is_same_content(making.copy_of, making.path)):
            raise UsageError(f"{making} exists already, and is no copy of the model; it is never overwritten")


def _check_suffix(making: Making) -> None:
    is_new_model = making.kind == "model" and not making.replaces
    if is_new_model and making.path.suffix.lower() not in MODEL_SUFFIXES:
        raise UsageError(f"{making} must end in {' or '.join(filter(None, MODEL_SUFFIXES))}")


def _check_replaced(making: Making) -> None:
    """Check that the file which an output would replace is one that this tool has written."""
    if making.kind not in ("file", "model") or making.replaces or making.recorded or not making.path.exists():
        return
    if making.mark:
        if making.mark not in _ends_of(making.path)[0]:
            raise UsageError(
                f"{making} is there and is not what this tool would write, so it is not replaced; choose another name"
                " for the output"
            )
    elif not _force.get() and not is_written_by_us(making.path):
        raise UsageError(
            f"{making} exists, and was not written by this tool; choose another path, or replace it with"
            f" `force`"
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
    if (why := _unwritable(folder / making.path.name)) is not None:
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


def _unwritable(target: Path) -> str | None:
    """Return why nothing can be written beside a target, tested by doing it; None if it can."""
    try:
        HiddenFolder(target).close()
    except OSError as error:
        return str(error.strerror or error)
    return None


def _check_each_other(makings: Sequence[Making]) -> None:
    seen: dict[Identity, Making] = {}
    for making in makings:
        own, around = identity(making.path), identity(making.path.parent)
        if own is None or around is None:
            continue
        # Names that differ only in case or accents may be one file, here or where the files are copied to.
        for key in (own, (around[0], around[1], folded(f"{around[2]}/{making.path.name}"))):
            other = seen.setdefault(key, making)
            if other is not making and making.copy_of != other.path:
                raise UsageError(f"{other} and {making} are the same file; give each its own")
    for making in makings:
        if making.kind == "model":
            _check_made_names(making, makings)
        elif making.kind in ("folder", "new folder"):
            _check_below(making, makings)


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


def _files_of(path: Path) -> Iterator[Path]:
    """The file itself, or all files of a folder and those below."""
    if not _is_dir(path):
        yield path
        return
    for folder, _, names in os.walk(path, followlinks=False):
        for name in names:
            yield Path(folder) / name


def _ends_of(path: Path) -> tuple[bytes, bytes]:
    """The first and the last bytes of a file."""
    with path.open("rb") as stream:
        start = stream.read(_HEAD)
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _HEAD))
        return start, stream.read(_HEAD)


def is_written_by_us(path: Path) -> bool:
    """Return whether a file is a model, a report, a table or a plot that this tool has written.

    A file that is empty counts, too: replacing it loses nothing.
    """
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        start, end = _ends_of(path)
    except OSError:
        return False
    return not start or _MARKS.match(start + end) is not None or is_model_of_ours(path)


def is_model_of_ours(path: Path) -> bool:
    """Return whether a file is a model that this tool has written: its metadata says so."""
    try:
        with path.open("rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return False
            light, _ = structure(stream.fileno(), own_location(path))
        model = ModelProto.FromString(light)
    except (OSError, WireError, DecodeError):
        return False
    return any(entry.key.startswith(f"{WRITER}.") for entry in model.metadata_props)


@dataclass(frozen=True)
class Backup:
    """The backup of a model or a folder that is replaced."""

    path: Path  # where it is kept
    original: Path  # the same, or an earlier backup where what is replaced was pruned in place before

    @classmethod
    def of(cls, model: Path, path: Path) -> Backup:
        """The backup of a model or a folder that is about to be replaced."""
        earlier = itertools.takewhile(os.path.lexists, backup_names(model)) if _holds_ours(model) else ()
        return cls(path, next((item for item in earlier if item != path and not _holds_ours(item)), path))

    def to_dict(self) -> dict[str, str]:
        """JSON-ready data."""
        return {"path": str(self.path), "original": str(self.original)}


def backup_names(model: Path) -> Iterator[Path]:
    """Names for backups, beside a model or a folder."""
    return (model.with_name(f"{model.name}.bak{number or ''}") for number in itertools.count())


def backup_path(model: Path) -> Path:
    """A name beside a model that is free, or whose file is the model, as an interrupted run leaves it."""
    return next(name for name in backup_names(model) if not os.path.lexists(name) or _is_copy(model, name))


def _is_copy(model: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return is_same_content(other, model)
    return False


def _holds_ours(path: Path) -> bool:
    """Return whether a model, or one of a folder, was written by this tool."""
    return any(map(is_model_of_ours, path.rglob("*.onnx") if path.is_dir() else [path]))
