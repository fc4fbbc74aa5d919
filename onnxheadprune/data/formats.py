"""Detection of the data format of a file or folder by its content."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import NotJsonError, kind_of, parse_json, regular_file
from onnxheadprune.model.storage.file_magic import in_place_of
from onnxheadprune.settings.inputs import DataFormat

HEAD = 2**16
"""Bytes at the beginning of a file that its format is detected from."""
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
_MAGIC: tuple[tuple[bytes, DataFormat], ...] = (
    (b"PK\x03\x04", "npz"),
    (b"PK\x05\x06", "npz"),
    (b"PAR1", "parquet"),
    (b"\x89PNG\r\n", "images"),
    (b"\xff\xd8\xff", "images"),
    (b"GIF8", "images"),
    (b"II*\0", "images"),
    (b"MM\0*", "images"),
)
_OTHER_TEXT = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""Text in UTF-16, and UTF-32 in little endian."""
_TABLES = (".csv", ".tsv")


def format_of(path: str | os.PathLike[str]) -> DataFormat | None:
    """The kind of data; None where there is no such file, as for "module:function"."""
    mode = kind_of(path)
    if mode is None:
        return None
    if stat.S_ISDIR(mode):
        return _of_folder(Path(path))
    file = regular_file(path, "the data")
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    if not head:
        raise UsageError(f"the data {file} is empty")
    known = next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
    if known is not None:
        return known
    if file.suffix.lower() in (*IMAGES, PARQUET):
        return "parquet" if file.suffix.lower() == PARQUET else "images"
    if head.startswith(_OTHER_TEXT):
        raise UsageError(f"the data {file} is not UTF-8 text; save it as UTF-8")
    if not head.strip(b"\0"):
        raise UsageError(f"the data {file} holds zero bytes alone; name a file with data")
    if not _is_text(head):
        raise UsageError(
            f"{path} is neither an .npz file, UTF-8 text, Parquet nor an image{in_place_of(file) or ''};"
            " save text as UTF-8, arrays with numpy.savez"
        )
    if told := in_place_of(file):
        raise UsageError(f"{path} is no data{told}")
    return _of_text(file, head.decode(errors="replace"))


def images_of(path: Path) -> Iterator[Path]:
    """The images of a folder and its subfolders, or the given image."""
    return (file for file in (path.rglob("*") if path.is_dir() else [path]) if file.suffix.lower() in IMAGES)


def _of_folder(folder: Path) -> DataFormat:
    arrays, images = any(folder.glob("*.npz")), any(images_of(folder))
    if arrays and images:
        raise UsageError(
            f"the folder {folder} holds .npz files and images; choose with"
            f" `data_format=npz` or `data_format=images`"
        )
    if not arrays and not images:
        raise UsageError(f"the folder {folder} holds neither .npz files nor images ({', '.join(IMAGES)})")
    return "npz" if arrays else "images"


def _is_text(head: bytes) -> bool:
    try:
        # A character may be cut in two at the end.
        codecs.getincrementaldecoder("utf-8")().decode(head, final=False)
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


def _of_text(file: Path, head: str) -> DataFormat:
    suffix = file.suffix.lower()
    first = next((line for line in head.splitlines() if line.strip()), "")
    if suffix in JSON_LINES or _is_object(first):
        return "jsonl"
    if suffix == ".json" or suffix in _TABLES:
        what = "a JSON document" if suffix == ".json" else "a table"
        raise UsageError(
            f"{file} is {what}; save it with one JSON object a line (.jsonl), or read its lines as they are with"
            f" `data_format=text`"
        )
    return "text"


def _is_object(line: str) -> bool:
    try:
        return line.lstrip().startswith("{") and isinstance(parse_json(line), dict)
    except NotJsonError:
        return False
