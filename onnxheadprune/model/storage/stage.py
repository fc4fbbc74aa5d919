"""A model on its way to disk: written completely and checked before anything has a name.

Data files that interrupted runs left behind, and to which no model refers any more, are removed with it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import signal
import stat
import threading
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from types import FrameType, TracebackType

from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.storage.claims import holds, is_same_content, is_same_entry
from onnxheadprune.model.storage.folder import (
    Draft,
    note_written,
    one_call,
    require_unwritten,
    sweep_hidden,
    sync_folder,
    write_all,
    written_files,
)
from onnxheadprune.model.storage.layout import Layout, Placed
from onnxheadprune.model.storage.names import data_name, is_data_name
from onnxheadprune.model.storage.reading import BLOCK, Opened, Sources, identity_of
from onnxheadprune.model.storage.system import NO_LINKS, hard_link, locked, read_at
from onnxheadprune.model.storage.tensors import is_outside, own_location, span_of, tensors_of
from onnxheadprune.model.storage.wire import WireError, structure

_SAMPLES, _SAMPLE = 16, 4096


class Stage:
    """A model and its data file before they are given their names.

    Attributes:
        target: where the model goes.
        location: what the staged model calls its data file.
        data: the data file, None if all data is inside the model.
        draft: the model file.
    """

    def __init__(
        self, layout: Layout, sources: Sources, target: Path, location: str, named: str | None = None
    ) -> None:
        """Write the data file."""
        self.layout, self.sources, self.target, self.location = layout, sources, target, location
        self.named = named
        self.data: Draft | None = None
        self._written = self._is_sealed = False
        self._tail, self._content = b"", ""
        self.draft = Draft(target.parent, target.name, like=target)
        try:
            if layout.outside:
                self.data = Draft(target.parent, target.name, like=target)
                with Opened(sources) as opened:
                    layout.write_data(self.data.handle, opened)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Discard what has no name yet."""
        self.draft.close()
        if self.data is not None:
            self.data.close()

    def write(self) -> None:
        """Write the model file, so that it can be read before it is committed."""
        if not self._written:
            with Opened(self.sources) as opened:
                self.layout.write_model(self.draft.handle, opened)
            self._written = True

    def show(self) -> None:
        """Give the files hidden names for a while, for readers that need one: ONNX Runtime maps by name."""
        for draft in (self.draft, self.data):
            if draft is not None:
                draft.show()

    def seal(self, metadata: tuple[str, str] | None = None) -> None:
        """Complete the files, so that nothing is left but to give them their names, and their size is known."""
        if metadata is not None:
            extra = ModelProto()
            extra.metadata_props.add(key=metadata[0], value=metadata[1])
            self._tail = extra.SerializeToString()
        if self.data is not None:
            os.fsync(self.data.handle)
            self._content = "" if self.named else self._digest()
            self._refer_to(self.named or data_name(self.target, self._content))
        self._complete()

    def _complete(self) -> None:
        self.write()
        os.lseek(self.draft.handle, 0, os.SEEK_END)
        write_all(self.draft.handle, self._tail)
        os.fsync(self.draft.handle)
        self._is_sealed = True

    @property
    def size(self) -> int:
        """Bytes of both files; final once they are sealed."""
        drafts = (self.draft, self.data)
        return sum(draft.stat().st_size for draft in drafts if draft is not None)

    def commit(self, backup: Path | None = None) -> None:
        """Give the files their names: the data first, then, in one step, the model."""
        if not self._is_sealed:
            self.seal()
        with one_call(), locked(self.target.parent):
            linked = self._free_data_name()
            if not self._written:
                self._complete()
            # From here on nothing takes time: the shorter, the less a kill can leave.
            with uninterrupted():
                self._name_all(linked, backup)
        if backup is not None:
            with contextlib.suppress(OSError), locked(backup.parent):
                sweep_hidden(backup)

    def _name_all(self, linked: Path | None, backup: Path | None) -> None:
        """Name the data, then the model, then take away what the model that was replaced left."""
        self._require_unread(backup)
        require_unwritten(self.target)
        if linked is not None and self.data is not None:
            self.data.link(linked)
        if self.data is not None:
            # Weights that were there already are this call's as well, since its model refers to them.
            note_written(self.target.with_name(self.location).lstat())
        try:
            self._name_model(backup)
        except BaseException:
            if linked is not None and not self._may_be_named():
                linked.unlink(missing_ok=True)
            raise
        if backup is not None:
            note_written(backup.lstat())
        sync_folder(self.target.parent)
        with contextlib.suppress(OSError):
            read = {source.identity[:2] for source in self.sources.values()}
            _sweep_up(self.target, read | written_files())

    def _require_unread(self, backup: Path | None) -> None:
        """Nothing that was read is replaced, but the model in place; and that only as it was read."""
        try:
            found = self.target.lstat()
        except FileNotFoundError:
            return
        read = [source.identity for source in self.sources.values()]
        if backup is None and (found.st_dev, found.st_ino) in [item[:2] for item in read]:
            raise OSError(errno.EEXIST, "it is a file that was read", str(self.target))
        if backup is not None and identity_of(found) not in read:
            raise OSError(errno.EBUSY, "it was modified after it was read", str(self.target))

    def _name_model(self, backup: Path | None) -> None:
        if backup is None:
            self.draft.put(self.target)
            return
        before = self.target.lstat()
        ours = self._keep(backup)
        try:
            sync_folder(backup.parent)
            self.draft.put(self.target)
        except BaseException:
            # The backup may be the only original. It goes only where the original is certainly in its place.
            with contextlib.suppress(OSError):
                if ours and os.path.samestat(self.target.lstat(), before):
                    backup.unlink(missing_ok=True)
            raise

    def _keep(self, backup: Path) -> bool:
        """Give the model that is replaced a second name; whether that is new.

        A backup that is there already is kept if it is this model, as a run that was killed leaves it.
        """
        if os.path.lexists(backup):
            if is_same_entry(self.target, backup) or not is_same_content(self.target, backup):
                raise FileExistsError(errno.EEXIST, f"the backup {backup} exists already")
            with backup.open("rb") as stream:
                os.fsync(stream.fileno())
            return False
        try:
            hard_link(self.target, backup)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            self._copy(backup)
        return True

    def _copy(self, backup: Path) -> None:
        """Keep a copy, where the file system gives no file two names."""
        copy = Draft(backup.parent, backup.name, like=self.target, under_lock=True)
        try:
            with self.target.open("rb") as stream:
                while block := stream.read(BLOCK):
                    write_all(copy.handle, block)
            os.fsync(copy.handle)
            copy.link(backup)
        finally:
            copy.close()

    def _may_be_named(self) -> bool:
        try:
            return os.path.samestat(self.target.lstat(), self.draft.stat())
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _free_data_name(self) -> Path | None:
        """Find a name for the data file that nothing else has, and let the model refer to it.

        The name to give, None where there is no data file or an equal one has it already.
        """
        if self.data is None:
            return None
        while True:
            path = self.target.with_name(self.location)
            if not os.path.lexists(path):
                return path
            if holds(path, self.data.handle):
                return None
            if self.named:
                raise FileExistsError(
                    errno.EEXIST, f"its data file {path} exists already, and is never replaced"
                )
            self._content = hashlib.sha256(self._content.encode()).hexdigest()
            self._refer_to(data_name(self.target, self._content))

    def _refer_to(self, name: str) -> None:
        self.layout.point_to(self.location, name)
        self.location, self._written = name, False

    def _digest(self) -> str:
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
        assert self.data is not None
        for placed in self.layout.outside:
            step = max(_SAMPLE, placed.length // _SAMPLES)
            for start in range(0, placed.length, step):
                size = min(_SAMPLE, placed.length - start)
                digest.update(read_at(self.data.handle, size, placed.offset + start))
        return digest.hexdigest()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold ctrl-C back until the names of all files fit together."""
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


def _sweep_up(target: Path, keep: Collection[tuple[int, ...]] = ()) -> None:
    """Remove what killed runs and replaced models left: data files of `target` that no model here refers to.

    Only to be called under the lock. Where there is any doubt, a file stays: if a file of the folder cannot
    be read, nothing is removed, and models in the folders above count too, since theirs may lie below them.

    Args:
        keep: device and inode of files that stay in any case, those that this call reads.
    """
    folder = target.parent
    sweep_hidden(target)
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
            if stat.S_ISREG(found.st_mode) and (found.st_dev, found.st_ino) not in keep:
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
