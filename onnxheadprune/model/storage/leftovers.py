"""Data files of models: which model refers to which, and what nobody refers to any more."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Collection
from pathlib import Path, PurePath

from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxheadprune.errors import ModelError
from onnxheadprune.model.storage.folder import sweep_hidden
from onnxheadprune.model.storage.names import is_data_name
from onnxheadprune.model.storage.spans import is_outside, own_location, span_of
from onnxheadprune.model.storage.tensors import tensors_of
from onnxheadprune.model.storage.wire import WireError, structure


def sweep_up(target: Path, keep: Collection[tuple[int, ...]] = ()) -> None:
    """Removes what killed runs and replaced models left: data files of `target` that no model here refers to.

    Only to be called under the lock. Where there is any doubt, a file stays: if a file of the folder cannot
    be read, nothing is removed, and models in the folders above count too, since theirs may lie below them.

    Args:
        target: the model that was written.
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
    """The files that a model refers to; none if the file is no model.

    Raises:
        OSError: if it cannot be read.
    """
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


def bears_our_mark(path: Path) -> bool:
    """Return whether a file is a model that this tool has written: its metadata says so."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("rb") as stream:
            light, _ = structure(stream.fileno(), own_location(path))
        model = ModelProto.FromString(light)
    except (OSError, WireError, DecodeError):
        return False
    return any(entry.key.startswith("onnxheadprune.") for entry in model.metadata_props)
