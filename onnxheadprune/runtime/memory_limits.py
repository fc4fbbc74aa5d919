"""Large models in memory: weights are mapped from disk, models take turns, freed memory is given back.

ONNX Runtime reads external data only below the folder of a model file, and a masked reference has no file.
So it gets a large model as a structure without a file, and the folder of the original's weights to map them from.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from onnx import ModelProto, TensorProto

from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.load import INLINE_LIMIT, LARGE, MAPPED_FROM, LoadedModel, stored_bytes
from onnxheadprune.model.messages import copied
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage.reading import Sources, hydrated, tensor_bytes
from onnxheadprune.model.storage.tensors import (
    Span,
    cuts_of,
    forget,
    hold,
    is_outside,
    refer,
    span_of,
    tensors_of,
)
from onnxheadprune.model.storage.wire import BIG
from onnxheadprune.model.storage.writing import temporary_folder_of

FOLDER = "session.model_external_initializers_file_folder_path"
"""ONNX Runtime's setting for where the external data of a model without a file is."""
NO_COPIES = "session.disable_prepacking"
"""Its setting against packed copies of weights, which are as large as the model, once per session."""
PAGE = 4096
"""The alignment of weights in a file of our own, in bytes: systems map pages."""

KEPT = 2**28
"""Bytes of freed memory that a process keeps for its next runs."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`: freed bytes from which it gives them back, bytes of what it never uses again."""


def supplier(model: LoadedModel, options: Any, owner: object, *, lasting: bool) -> Callable[[], bytes | str]:
    """Return a function with the source of a session each time it is opened: a serialized model or a path.

    Args:
        lasting: the session runs so often, or as a deployment does, that it may have copies of weights of moderate
            size.
    """
    size = stored_bytes(model.proto)
    if size <= MAPPED_FROM or not (model.sources or size > INLINE_LIMIT):
        return lambda: bytes(hydrated(model.proto, model.sources).SerializeToString())
    if (size > LARGE or not lasting) and not _unpacks(model.proto):
        options.add_session_config_entry(NO_COPIES, "1")
    if size - _bytes_outside(model.proto) > INLINE_LIMIT:
        path = _written(model, owner)
        return lambda: path
    light, folder = _mapped(model, owner)
    if folder is not None:
        options.add_session_config_entry(FOLDER, str(folder))
    message = bytes(light.SerializeToString())
    return lambda: message


def _unpacks(model: ModelProto) -> bool:
    """Return whether a model has weights in blocks: without packed copies, they become whole floats in every run."""
    return any(is_a(node, "com.microsoft.MatMulNBits") for node in nodes_in(model.graph.node))


def _mapped(model: LoadedModel, owner: object) -> tuple[ModelProto, Path | None]:
    """The structure with references that ONNX Runtime can follow, and the folder they start from."""
    light = copied(model.proto)
    tensors = [item.tensor for item in tensors_of(light)]
    files = _files(model.sources)
    made = _Made(owner)
    places: list[tuple[TensorProto, Path, Span]] = []
    for tensor in filter(is_outside, tensors):
        span = span_of(tensor)
        if span.location in files and not cuts_of(tensor):
            places.append((tensor, files[span.location], span))
            continue
        data = tensor_bytes(tensor, model.sources)
        if len(data) < BIG:
            hold(tensor, data)
        else:
            places.append((tensor, *made.put(data)))
    folder = Path(os.path.commonpath([path.parent for _, path, _ in places])) if places else None
    for tensor, path, span in places:
        refer(tensor, Span(path.relative_to(folder or path).as_posix(), span.offset, span.length))
    for tensor in tensors:
        forget(tensor)
    return light, folder


def _files(sources: Sources) -> dict[str, Path]:
    """The sources that are files by a name, by location: those below one root with what is made here.

    A staged file may have no name yet: what a descriptor resolves to is no path then.
    """
    found = {location: source.path.resolve() for location, source in sources.items() if source.path.is_file()}
    root = Path(tempfile.gettempdir()).resolve().anchor
    return {location: path for location, path in found.items() if path.anchor == root and path.is_file()}


class _Made:
    """A file of our own for weights that are in no file as the model has them: cut, or computed."""

    def __init__(self, owner: object) -> None:
        """Make nothing yet."""
        self._owner = owner
        self._path: Path | None = None

    def put(self, data: bytes) -> tuple[Path, Span]:
        """Write bytes; where they lie then."""
        if self._path is None:
            self._path = temporary_folder_of(self._owner) / "weights"
        with self._path.open("ab") as stream:
            stream.write(bytes(-stream.tell() % PAGE))
            start = stream.tell()
            stream.write(data)
        return self._path, Span(self._path.name, start, len(data))


def _bytes_outside(model: ModelProto) -> int:
    return sum(span_of(item.tensor).length for item in tensors_of(model) if is_outside(item.tensor))


def _written(model: LoadedModel, owner: object) -> str:
    """A file of our own, where a message cannot hold what is in memory."""
    path = temporary_folder_of(owner) / "model.onnx"
    save_model(model, path, external="always")
    return str(path)


class Holder(Protocol):
    """A holder of memory that can release it, and load it again."""

    def close(self) -> None:
        """Give it back."""


class Turns:
    """One of several holders at a time. Only one thread may use it; the last holder closes when it says `rest`."""

    def __init__(self, spared: int = 0) -> None:
        """Nobody holds anything yet.

        Args:
            spared: bytes up to which a holder need not close for another one.
        """
        self.spared = spared
        # Whoever is gone holds nothing, and a holder knows its turns: no cycle keeps a session alive.
        self._now: Callable[[], Holder | None] = lambda: None

    def take(self, holder: Holder) -> None:
        """It is a holder's turn: who had the one before gives back what it holds."""
        if self._now() is not holder:
            self.rest()
            give_back()
        self._now = weakref.ref(holder)

    def rest(self) -> None:
        """Nobody holds anything, as before something new is loaded."""
        holder = self._now()
        if holder is not None:
            holder.close()
        self._now = lambda: None


def give_back() -> None:
    """Give freed memory back to the system, where the C library keeps it (glibc); else nothing happens."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def use_again() -> None:
    """Let this process use freed memory again, up to `KEPT` bytes, where the C library gives it back at once (glibc).

    A session without an arena allocates each value of each run. Beyond 32 MB glibc takes that from the system and gives
    it back, which has to clear its pages every time: a third of what a choice on 512 tokens cost.
    """
    setting = _of_glibc("mallopt")
    if setting is not None:
        setting(MMAP_THRESHOLD, KEPT)
        setting(TRIM_THRESHOLD, KEPT)


@functools.cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found
