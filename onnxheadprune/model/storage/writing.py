"""Copying tensors into a file: the system moves what is taken as it lies, only cut data passes through here."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from onnxheadprune.errors import ModelError
from onnxheadprune.model.storage.folder import write_all
from onnxheadprune.model.storage.layout import Layout, Placed
from onnxheadprune.model.storage.reading import BLOCK, Opened, Part, parts
from onnxheadprune.model.storage.spans import Span, is_outside
from onnxheadprune.model.storage.splicing import splice

_NOT_HERE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)


def write_data(handle: int, layout: Layout, opened: Opened) -> None:
    """Writes the data file. Gaps that alignment leaves stay holes.

    Raises:
        OSError: if it cannot be written.
        ModelError: if weights cannot be read.
    """
    for placed in layout.outside:
        os.lseek(handle, placed.offset, os.SEEK_SET)
        _write_tensor(handle, placed, opened)
    os.ftruncate(handle, layout.data_size)


def write_model(handle: int, layout: Layout, opened: Opened) -> None:
    """Writes the model file, with the data that is inside it.

    Raises:
        OSError: if it cannot be written.
        ModelError: if weights cannot be read.
    """
    os.lseek(handle, 0, os.SEEK_SET)
    os.ftruncate(handle, 0)
    for item in pieces(layout):
        if isinstance(item, Placed):
            _write_tensor(handle, item, opened)
        else:
            write_all(handle, item)


def pieces(layout: Layout) -> Iterable[bytes | Placed]:
    """The model file as bytes and tensors between them."""
    serialized = layout.model.SerializeToString(deterministic=True)
    sizes = [item.length for item in layout.inside]
    for item in splice(serialized, layout.prefix, sizes):
        yield item if isinstance(item, bytes) else layout.inside[item.index]


def parts_of(placed: Placed, opened: Opened) -> Iterable[Part]:
    """The data of a placed tensor in order."""
    if is_outside(placed.recipe):
        return parts(placed.recipe, opened)
    return (bytes(placed.recipe.raw_data),)


def _write_tensor(handle: int, placed: Placed, opened: Opened) -> None:
    written = 0
    for part in parts_of(placed, opened):
        if isinstance(part, bytes):
            write_all(handle, part)
            written += len(part)
        else:
            _copy(handle, part, opened)
            written += part.length
    if written != placed.length:
        raise ModelError(
            f"{written} bytes were written of tensor {placed.recipe.name!r} where its shape needs {placed.length}"
        )


def _copy(handle: int, span: Span, opened: Opened) -> None:
    source, offset, left = opened.handle(span.location), span.offset, span.length
    while left and hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(source, handle, min(left, 2**30), offset)
        except OSError as error:
            if error.errno in _NOT_HERE:
                break
            raise
        if not count:
            # Some file systems give up quietly; a real end of the file is noticed by the reading below.
            break
        offset, left = offset + count, left - count
    while left:
        count = min(left, BLOCK)
        write_all(handle, opened.read(Span(span.location, offset, count)))
        offset, left = offset + count, left - count
