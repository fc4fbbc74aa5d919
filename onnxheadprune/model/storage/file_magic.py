"""The true type of a file that was passed as an ONNX model, by its first bytes, so that the error can say what to do.

Asked only of files that were refused already: nothing is accepted by what is found here.
"""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path

from onnxheadprune.errors import ModelError
from onnxheadprune.model.storage.reading import open_at_once

_READ = 2**12
_EXPORT, _UNPACK, _PICTURE = "export the model to ONNX first", "unpack it first", "give the model instead"
_TEXT = rb"[^\x00-\x08\x0b\x0c\x0e-\x1f]*\Z"
_IN_PLACE = (
    (
        rb"version https://git-lfs",
        "a pointer of Git LFS, which stands for a file that was not fetched",
        "run: git lfs pull",
    ),
    (
        rb"/annex/objects/",
        "a pointer of git-annex, which stands for a file that was not fetched",
        "run: git annex get",
    ),
    (
        rb"\s*(?i:<!doctype|<html)",
        "a page of HTML, perhaps in place of a download that failed",
        "fetch the file again",
    ),
)
"""Formats that are mistaken for a model or its weights: first bytes, name, remedy."""
_KINDS = (
    *_IN_PLACE,
    (rb"\Z", "an empty file", "fetch or export it again"),
    (
        rb".{4}ORTM",
        "a model in ONNX Runtime's own format (.ort)",
        "give the .onnx file it was made from",
    ),
    (rb".{4}TFL3", "a model of LiteRT (TensorFlow Lite)", _EXPORT),
    (rb"GGUF", "a GGUF file", _EXPORT),
    (rb"\x89HDF\r\n", "an HDF5 file, as Keras writes", _EXPORT),
    (rb"ftrt", "a TensorRT engine", "give the .onnx file it was built from"),
    (rb"\x1f\x8b", "compressed by gzip", _UNPACK),
    (rb"BZh", "compressed by bzip2", _UNPACK),
    (rb"\xfd7zXZ\0", "compressed by xz", _UNPACK),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (rb".{257}ustar", "a tar archive", _UNPACK),
    (rb"\x93NUMPY", "an array of NumPy", _EXPORT),
    (rb"\x80\x02", "a pickle, as older PyTorch wrote", _EXPORT),
    (rb"\x89PNG|\xff\xd8\xff", "a picture", _PICTURE),
    # An archive is told by the name of its first entry, behind which it is cut off.
    (
        rb"PK\x03\x04.{26}.*/((data\.pkl|\.format_version|byteorder|archive_format)\Z|data/)",
        "a file of PyTorch",
        _EXPORT,
    ),
    (rb"PK\x03\x04.{26}.*\.npy\Z", "an .npz archive of NumPy", _EXPORT),
    (rb"PK\x03\x04", "a zip archive", _UNPACK),
    (rb'.{4}\0{4}\{"', "a safetensors file, which holds weights and no graph", _EXPORT),
    (rb"\s*(?i:<\?xml)", "XML, as OpenVINO writes", "give the .onnx file it was made from"),
    (
        rb"\s*ir_version:",
        "ONNX as protobuf's text",
        "read it with onnx.load(FILE, format='textproto'), then save it",
    ),
    (rb"\s*\{" + _TEXT, "JSON", "give the .onnx file"),
    (
        rb"\s*<(?=.*ir_version)" + _TEXT,
        "ONNX as text",
        "read it with onnx.load(FILE, format='onnxtxt'), then save it",
    ),
)


def _first_bytes(path: Path) -> bytes:
    """The first bytes of a file; a byte of no type if it cannot be read."""
    try:
        with os.fdopen(open_at_once(path), "rb") as stream:
            head = stream.read(_READ)
    except OSError:
        return b"\0"
    return head[: 30 + int.from_bytes(head[26:28], "little")] if head.startswith(b"PK\x03\x04") else head


def not_a_model(path: Path, reason: str) -> ModelError:
    """The sentence for a file that is no model.

    Args:
        reason: what was found out when it was read; said where nobody knows what the file is.
    """
    head = _first_bytes(path)
    for begins, what, advice in _KINDS:
        if re.match(begins, head, re.DOTALL):
            return ModelError(f"{path} is not an ONNX model but {what}; {advice}")
    if _is_text(head):
        return ModelError(f"{path} is not an ONNX model but a text file; give the .onnx file")
    return ModelError(f"{path} is not an ONNX model{reason}")


def in_place_of(path: Path) -> str:
    """The end of a sentence about a file that is too short: what stands in its place, if that is known.

    Weights may begin with any bytes, so only texts that say what they stand for count.
    """
    head = _first_bytes(path)
    found = (f": it is {what}; {advice}" for begins, what, advice in _IN_PLACE if re.match(begins, head))
    return next(found, "")


def _is_text(head: bytes) -> bool:
    """Return whether bytes are text, which may end within a character; no model is from its first byte on."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return re.match(rb"\s*(?=\S)" + _TEXT, head) is not None
