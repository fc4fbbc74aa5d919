"""The marks by which this tool recognizes files that it has written: only such files are replaced without --force."""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from onnxheadprune.model.storage.tensors import own_location
from onnxheadprune.model.storage.wire import WireError, structure

WRITER = "onnxheadprune"
MARKDOWN_MARK = f"<!-- written by {WRITER} -->"
JSON_KEY = "written_by"
_START = 2**14
_MARKS = re.compile(
    rb"\s*<!doctype html>[^<]*<html[^>]*>\s*<head>\s*<meta charset=\"utf-8\">\s*"
    rb'<meta name="generator" content="onnxheadprune">'
    rb"|<!-- written by onnxheadprune -->"
    rb'|\{\s*"written_by": "onnxheadprune"'
    rb"|site,unit,score,method,means\r?\n|model,provider,batch,seq,past,p50_ms,"
    rb'|<\?xml [^>]*>\s*<testsuites[^>]* name="onnxheadprune"'
    rb"|\x89PNG\r\n\x1a\n.{25}.{4}tEXtSoftware\0onnxheadprune"
    rb"|<\?xml .{,1500}<dc:title>onnxheadprune",
    re.DOTALL,
)
_AT_THE_END = re.compile(rb"/Creator \(onnxheadprune")


def is_written_by_us(path: Path) -> bool:
    """Return whether a file is a model, a report, a table or a plot that this tool has written.

    A file that is empty counts, too: replacing it loses nothing.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return False
        with path.open("rb") as stream:
            start = stream.read(_START)
            stream.seek(max(0, found.st_size - _START))
            end = stream.read(_START)
    except OSError:
        return False
    if not start or _MARKS.match(start):
        return True
    if start.startswith(b"%PDF"):
        return _AT_THE_END.search(end) is not None
    return is_model_of_ours(path)


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


def _holds_ours(path: Path) -> bool:
    """Return whether a model, or one of a folder, was written by this tool."""
    return any(map(is_model_of_ours, path.rglob("*.onnx") if path.is_dir() else [path]))


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
