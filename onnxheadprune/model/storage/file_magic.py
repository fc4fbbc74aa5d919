"""The true type of a file that was passed as an ONNX model, by its first bytes, so that the error can say what to do.

Asked only of files that were refused already: nothing is accepted by what is found here.
"""

from __future__ import annotations

import codecs
import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from onnxheadprune.errors import ModelError
from onnxheadprune.model.storage.reading import open_at_once

_READ = 2**12
_ZIP_HEADER, _ZIP_NAME_LENGTH = 30, 26
"""Of the header before each entry of an archive: its size, and where it keeps the size of the entry's name."""
_SAFETENSORS_HEADER = 8
_EXPORT = "export the model to ONNX first"


class FileType(NamedTuple):
    """A kind of file."""

    what: str  # what to call it
    advice: str  # what helps
    in_place: bool = False  # whether it stands in the place of another file, of weights as well as of a model


class _Mark(NamedTuple):
    offset: int
    magic: bytes
    kind: FileType


_LFS = FileType(
    "a pointer of Git LFS, which stands for a file that was not fetched", "run: git lfs pull", True
)
_ANNEX = FileType(
    "a pointer of git-annex, which stands for a file that was not fetched", "run: git annex get", True
)
_HTML = FileType("a page of HTML, perhaps in place of a download that failed", "fetch the file again", True)
_ARCHIVE = "unpack it first"
_PYTORCH = FileType("a file of PyTorch", _EXPORT)
_MARKS = (
    _Mark(0, b"version https://git-lfs", _LFS),
    _Mark(0, b"/annex/objects/", _ANNEX),
    _Mark(
        4,
        b"ORTM",
        FileType("a model in ONNX Runtime's own format (.ort)", "give the .onnx file it was made from"),
    ),
    _Mark(4, b"TFL3", FileType("a model of LiteRT (TensorFlow Lite)", _EXPORT)),
    _Mark(0, b"GGUF", FileType("a GGUF file", _EXPORT)),
    _Mark(0, b"\x89HDF\r\n", FileType("an HDF5 file, as Keras writes", _EXPORT)),
    _Mark(0, b"ftrt", FileType("a TensorRT engine", "give the .onnx file it was built from")),
    _Mark(0, b"\x1f\x8b", FileType("compressed by gzip", _ARCHIVE)),
    _Mark(0, b"BZh", FileType("compressed by bzip2", _ARCHIVE)),
    _Mark(0, b"\xfd7zXZ\0", FileType("compressed by xz", _ARCHIVE)),
    _Mark(0, b"\x28\xb5\x2f\xfd", FileType("compressed by zstd", _ARCHIVE)),
    _Mark(0, b"7z\xbc\xaf\x27\x1c", FileType("a 7z archive", _ARCHIVE)),
    _Mark(257, b"ustar", FileType("a tar archive", _ARCHIVE)),
    _Mark(0, b"\x93NUMPY", FileType("an array of NumPy", _EXPORT)),
    _Mark(0, b"\x80\x02", FileType("a pickle, as older PyTorch wrote", _EXPORT)),
    _Mark(0, b"\x89PNG", FileType("a picture", "give the model instead")),
    _Mark(0, b"\xff\xd8\xff", FileType("a picture", "give the model instead")),
)
_WORDS = (
    (b"<!doctype", _HTML),
    (b"<html", _HTML),
    (b"<?xml", FileType("XML, as OpenVINO writes", "give the .onnx file it was made from")),
    (
        b"ir_version:",
        FileType("ONNX as protobuf's text", "read it with onnx.load(FILE, format='textproto'), then save it"),
    ),
)


def _taken_for(head: bytes) -> FileType | None:
    """The type of a file that begins like this, None if unknown."""
    if not head:
        return FileType("an empty file", "fetch or export it again")
    for mark in _MARKS:
        if head[mark.offset :].startswith(mark.magic):
            return mark.kind
    if head.startswith(b"PK\x03\x04"):
        return _archive(head)
    size = int.from_bytes(head[:_SAFETENSORS_HEADER], "little")
    if head[_SAFETENSORS_HEADER:].startswith(b'{"') and 1 < size < 2**32:
        return FileType("a safetensors file, which holds weights and no graph", _EXPORT)
    words = head.lstrip().lower()
    for start, kind in _WORDS:
        if words.startswith(start):
            return kind
    return _text(head.lstrip())


def _taken_for_at(path: Path) -> FileType | None:
    """The type of the file at a path, None if unknown, or if it cannot be read."""
    try:
        with os.fdopen(open_at_once(path), "rb") as stream:
            return _taken_for(stream.read(_READ))
    except OSError:
        return None


def not_a_model(path: Path, reason: str) -> ModelError:
    """The sentence for a file that is no model.

    Args:
        reason: what was found out when it was read; said where nobody knows what the file is.
    """
    kind = _taken_for_at(path)
    if kind is None:
        return ModelError(f"{path} is not an ONNX model{reason}")
    return ModelError(f"{path} is not an ONNX model but {kind.what}; {kind.advice}")


def in_place_of(path: Path) -> str:
    """The end of a sentence about a file that is too short: what stands in its place, if that is known.

    Weights may begin with any bytes, so only texts that say what they stand for count.
    """
    kind = _taken_for_at(path)
    return f": it is {kind.what}; {kind.advice}" if kind and kind.in_place else ""


def _archive(head: bytes) -> FileType:
    """A zip archive, told by the name of its first entry."""
    length = int.from_bytes(head[_ZIP_NAME_LENGTH : _ZIP_NAME_LENGTH + 2], "little")
    first = head[_ZIP_HEADER : _ZIP_HEADER + length]
    if (
        first.endswith((b"/data.pkl", b"/.format_version", b"/byteorder", b"/archive_format"))
        or b"/data/" in first
    ):
        return _PYTORCH
    if first.endswith(b".npy"):
        return FileType("an .npz archive of NumPy", _EXPORT)
    return FileType("a zip archive", _ARCHIVE)


def _text(head: bytes) -> FileType | None:
    """JSON, ONNX's own text, and any other text; nothing of a model is text from its first byte on."""
    if not head or any(byte < ord(" ") and byte not in b"\t\r\n" for byte in head):
        return None
    if head.startswith(b"{"):
        return FileType("JSON", "give the .onnx file")
    if head.startswith(b"<") and b"ir_version" in head:
        return FileType("ONNX as text", "read it with onnx.load(FILE, format='onnxtxt'), then save it")
    # What was read may end within a character.
    decoder = codecs.getincrementaldecoder("utf-8")()
    with contextlib.suppress(UnicodeDecodeError):
        decoder.decode(head)
        return FileType("a text file", "give the .onnx file")
    return None
