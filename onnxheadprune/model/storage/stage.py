"""A model on its way to disk: written completely and checked before anything has a name.

Data files that interrupted runs left behind, and to which no model refers any more, are removed with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
from pathlib import Path, PurePath

from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.storage.layout import Layout, Placed
from onnxheadprune.model.storage.reading import Opened, Sources, identity_of
from onnxheadprune.model.storage.tensors import is_outside, own_location, span_of, tensors_of
from onnxheadprune.model.storage.wire import WireError, read_at, structure
from onnxheadprune.model.storage.writing import (
    HiddenFolder,
    data_name,
    finish,
    folded,
    give_name,
    is_data_name,
    locked,
    sentences,
    sync_folder,
    uninterrupted,
)

_SAMPLES, _SAMPLE = 16, 4096


class Stage(HiddenFolder):
    """A model and its data file before they are given their names.

    Attributes:
        location: what the staged model calls its data file.
        model: the model file.
        data: the data file, None if all data is inside the model.
    """

    def __init__(
        self, layout: Layout, sources: Sources, target: Path, location: str, named: str | None = None
    ) -> None:
        """Write the data file."""
        super().__init__(target)
        self.layout, self.sources, self.location, self.named = layout, sources, location, named
        self._written = False
        self._tail = b""
        self.model = self.path / "model"
        self.data = self.path / location if layout.outside else None
        try:
            if self.data is not None:
                with Opened(sources) as opened, self.data.open("xb", buffering=0) as stream:
                    layout.write_data(stream.fileno(), opened)
        except BaseException:
            self.close()
            raise

    def write(self) -> None:
        """Write the model file, so that it can be read before it is committed."""
        if not self._written:
            self.model.unlink(missing_ok=True)
            with Opened(self.sources) as opened, self.model.open("xb", buffering=0) as stream:
                self.layout.write_model(stream.fileno(), opened)
            self._written = True

    def seal(self, metadata: tuple[str, str] | None = None) -> int:
        """Complete the files, so that nothing is left but to give them their names; return their size in bytes."""
        with sentences(self.target):
            if metadata is not None:
                extra = ModelProto()
                extra.metadata_props.add(key=metadata[0], value=metadata[1])
                self._tail = extra.SerializeToString()
            if self.data is not None:
                finish(self.data, self.target)
                self._refer_to(self.named or data_name(self.target, self._digest(self.data)))
            self._complete()
            return sum(path.stat().st_size for path in (self.model, self.data) if path is not None)

    def _refer_to(self, name: str) -> None:
        self.layout.point_to(self.location, name)
        self.location, self._written = name, False

    def _complete(self) -> None:
        self.write()
        with self.model.open("ab") as stream:
            stream.write(self._tail)
        finish(self.model, self.target)

    def commit(self, backup: Path | None = None) -> None:
        """Give the sealed files their names: the data first, then, in one step, the model."""
        with sentences(self.target), locked(self.target.parent):
            data = self._new_data()
            # From here on nothing takes time: the shorter, the less a kill can leave.
            with uninterrupted():
                self._name_all(data, backup)

    def _new_data(self) -> Path | None:
        """The path that the data file gets; None where there is none, or an equal one is there already."""
        if self.data is None:
            return None
        path = self.target.with_name(self.location)
        if not os.path.lexists(path):
            return path
        if is_same_content(path, self.data):
            return None
        if self.named:
            raise FileExistsError(errno.EEXIST, f"its data file {path} exists already, and is never replaced")
        # Names are made from samples of the content; this file has the same samples.
        self._refer_to(data_name(self.target, secrets.token_hex(8)))
        self._complete()
        return self.target.with_name(self.location)

    def _name_all(self, data: Path | None, backup: Path | None) -> None:
        """Name the data, then the model, then remove what the model that was replaced left."""
        before = self._require_unread(backup)
        made: list[Path] = []
        try:
            if backup is not None:
                made += [backup] if self._keep(backup) else []
                sync_folder(backup.parent)
            if data is not None and self.data is not None:
                give_name(self.data, data)
                made.append(data)
            give_name(self.model, self.target)
        except BaseException:
            # The backup may be the only original. It goes only where the original is certainly in its place.
            with contextlib.suppress(OSError):
                if _entry(self.target) == before:
                    for path in made:
                        path.unlink(missing_ok=True)
            raise
        sync_folder(self.target.parent)
        with contextlib.suppress(OSError):
            _sweep_data(self.target, {source.identity[:2] for source in self.sources.values()})

    def _require_unread(self, backup: Path | None) -> tuple[int, ...]:
        """Nothing that was read is replaced, but the model in place; and that only as it was read."""
        found = _entry(self.target)
        read = [source.identity for source in self.sources.values()]
        if backup is None and found and found[:2] in [item[:2] for item in read]:
            raise OSError(errno.EEXIST, "it is a file that was read", str(self.target))
        if backup is not None and found and found not in read:
            raise OSError(errno.EBUSY, "it was modified after it was read", str(self.target))
        return found

    def _keep(self, backup: Path) -> bool:
        """Give the model that is replaced a second name; whether that is new.

        A backup that is there already is kept if it is this model, as a run that was killed leaves it.
        """
        if os.path.lexists(backup):
            if is_same_entry(self.target, backup) or not is_same_content(self.target, backup):
                raise FileExistsError(errno.EEXIST, f"the backup {backup} exists already")
            return False
        try:
            os.link(self.target, backup)
        except FileExistsError:
            raise
        except (OSError, AttributeError):  # file systems, and systems, on which no file has two names
            copy = self.path / "copy"
            shutil.copyfile(self.target, copy)
            finish(copy, self.target)
            give_name(copy, backup)
        return True

    def _digest(self, data: Path) -> str:
        """Of everything in the model file and samples of all data.

        Which weights a model has shows in samples; that another file of the same name is never replaced is
        made sure by comparing all of it.
        """
        digest = hashlib.sha256()
        with Opened(self.sources) as opened:
            for piece in self.layout.pieces():
                if isinstance(piece, Placed):
                    for part in piece.parts(opened):
                        digest.update(part if isinstance(part, bytes) else opened.read(part))
                else:
                    digest.update(piece)
        digest.update(self._tail)
        with data.open("rb", buffering=0) as stream:
            for placed in self.layout.outside:
                step = max(_SAMPLE, placed.length // _SAMPLES)
                for start in range(0, placed.length, step):
                    size = min(_SAMPLE, placed.length - start)
                    digest.update(read_at(stream.fileno(), size, placed.offset + start))
        return digest.hexdigest()


def _entry(path: Path) -> tuple[int, ...]:
    """The identity of the file with this name; empty if there is none."""
    try:
        return identity_of(path.lstat())
    except FileNotFoundError:
        return ()


def is_same_entry(left: Path, right: Path) -> bool:
    """Return whether two paths may be the same entry of a folder, so that replacing one replaces the other."""
    return folded(left.name) == folded(right.name) and left.parent.samefile(right.parent)


def is_same_content(left: Path, right: Path) -> bool:
    """Return whether two regular files (not links) hold the same bytes."""
    one, other = left.lstat(), right.lstat()
    if not stat.S_ISREG(one.st_mode) or not stat.S_ISREG(other.st_mode) or one.st_size != other.st_size:
        return False
    if os.path.samestat(one, other):
        return True
    with left.open("rb") as stream, right.open("rb") as beside:
        while block := stream.read(2**20):
            if block != beside.read(2**20):
                return False
    return True


def _sweep_data(target: Path, read: set[tuple[int, ...]]) -> None:
    """Remove what killed runs and replaced models left: data files of `target` that no model here refers to.

    Only to be called under the lock. Where there is any doubt, a file stays: if a file of the folder cannot
    be read, nothing is removed, and models in the folders above count too, since theirs may lie below them.

    Args:
        read: device and inode of files that this call reads; they stay in any case.
    """
    folder = target.parent
    names = [path.name for path in folder.iterdir()]
    left = {name for name in names if is_data_name(name, target)}
    if len(left) > 1 or (left and not left <= _names(target)):
        for name in names:
            left -= _names(folder / name) if not is_data_name(name, target) else set()
        for above in folder.absolute().parents:
            for path in above.glob("*.onnx"):
                with contextlib.suppress(OSError):
                    left -= _names(path)
        for name in left:
            found = (folder / name).lstat()
            if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in read:
                (folder / name).unlink(missing_ok=True)


def _names(path: Path) -> set[str]:
    """Names of the files that a model refers to, in whatever folder and however it spells that."""
    return {PurePath(location).name for location in locations(path)}


def locations(path: Path) -> set[str]:
    """The files that a model refers to; none if the file is no model."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return set()
    except FileNotFoundError:  # a link that leads nowhere
        return set()
    try:
        with path.open("rb") as stream:
            light, _ = structure(stream.fileno(), own_location(path))
        model = ModelProto.FromString(light)
        return {span_of(item.tensor).location for item in tensors_of(model) if is_outside(item.tensor)}
    except (WireError, DecodeError, ModelError):
        return set()
