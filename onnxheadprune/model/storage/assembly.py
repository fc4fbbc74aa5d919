"""Atomic creation of a folder: it is filled under a hidden name, then renamed.

An existing folder is never replaced, unless it is empty, or kept under another name. Remains of a killed run are
recognised by their name and by the lock that ended with the process, and are removed by the next run for the same
folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path, PurePosixPath
from types import TracebackType

from onnxheadprune.model.storage.folder import note_written, sentences, sync_folder, write_file
from onnxheadprune.model.storage.names import hidden_name, is_hidden
from onnxheadprune.model.storage.provenance import Backup
from onnxheadprune.model.storage.system import OwnFolder, sweep_folders


class Assembly:
    """A folder that is being filled.

    Attributes:
        target: its final path.
        folder: its path until then, in a hidden folder whose lock shows that this process lives. Writers of
            files lock the folder that they write to.
    """

    def __init__(self, target: Path, kept: Backup | None = None) -> None:
        """Make the hidden folder.

        Args:
            kept: where the folder is kept that has the name now.
        """
        self.target, self.kept = target, kept
        with sentences(target):
            self._around = OwnFolder(lambda: target.parent / hidden_name(target.name))
            self.folder = self._around.path / "folder"
            self.folder.mkdir()

    def __enter__(self) -> Assembly:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove an unfinished folder."""
        self._around.close()

    def place(self, name: str) -> Path:
        """Return the path for a file of the folder; its parent folders are created."""
        path = self.folder.joinpath(*PurePosixPath(name).parts)
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
            shutil.copymode(source, path)
            note_written(path.lstat())

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        write_file(self.place(name), data)

    def commit(self) -> None:
        """Give the folder its name, in one step."""
        with sentences(self.target):
            for folder, _, names in os.walk(self.folder):
                for name in names:
                    _sync(Path(folder, name))
                sync_folder(Path(folder))
            if self.kept is not None:
                os.rename(self.target, self.kept.path)  # noqa: PTH104
            try:
                # Replaces an empty folder, and nothing else.
                os.rename(self.folder, self.target)  # noqa: PTH104
            except OSError as error:
                if self.kept is not None:
                    os.rename(self.kept.path, self.target)  # noqa: PTH104
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise FileExistsError(errno.EEXIST, "something is there by now") from error
                raise
            sync_folder(self.target.parent)
        with contextlib.suppress(OSError):
            self._sweep()

    def _sweep(self) -> None:
        """Remove the hidden folders for this target whose process has ended."""
        own = self._around.path
        around = [path for path in own.parent.iterdir() if is_hidden(path.name, self.target.name)]
        sweep_folders(path for path in around if path != own)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
