"""Names of files: what may be one, and which ones this tool makes itself."""

from __future__ import annotations

import os
import re
import secrets
import unicodedata
from pathlib import Path, PurePosixPath

from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.tensors import own_location

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""In bytes; what file systems and Linux take."""
TEMPORARY = ".tmp"
ITSELF = "{}"
"""Stands for the name of the model in a name for its data file."""
_ROOM = 180
"""Bytes that a name may have in the names that are made from it."""
_RANDOM, _DIGEST = r"\.[0-9a-f]{16}" + re.escape(TEMPORARY), r"\.[0-9a-f]{16}\.data"
_ENDING = len(".0123456789abcdef.data")


def folded(name: str) -> str:
    """A name as file systems compare it that tell neither cases nor the composition of accents apart."""
    return unicodedata.normalize("NFC", name).casefold()


def hidden_name(name: str) -> str:
    """A hidden name for what becomes the file or folder `name` when it is complete."""
    return f".{_shortened(name)}.{secrets.token_hex(8)}{TEMPORARY}"


def is_hidden(name: str, owner: str = "") -> bool:
    """Return whether a name is one that `hidden_name` makes, of `owner` or of anything: such files may be removed."""
    start = re.escape(f".{_shortened(owner)}") if owner else r"\..*"
    return re.fullmatch(start + _RANDOM, name, 0 if owner else re.IGNORECASE | re.DOTALL) is not None


def _shortened(name: str) -> str:
    """The start of a name, as many whole characters as there is room for."""
    while len(os.fsencode(name)) > _ROOM:
        name = name[:-1]
    return name


def data_name(target: Path, digest: str) -> str:
    """Name of the data file of a model: by content, so that a newer one never takes the place of an older."""
    return f"{_readable(target)}.{digest[:16]}.data"


def is_data_name(name: str, target: Path) -> bool:
    """Return whether `data_name` may give the data file of a model this name."""
    return re.fullmatch(re.escape(_readable(target)) + _DIGEST, name) is not None


def _readable(target: Path) -> str:
    """The name of a model as text, which ONNX wants for locations, as much of it as there is room for."""
    text = own_location(target)
    while len(text.encode()) > LONGEST_NAME - _ENDING:
        text = text[:-1]
    return text


def named_data(target: Path, pattern: str) -> str:
    """The name of a model's data file as somebody asks for it."""
    check_data_name(pattern)
    return pattern.replace(ITSELF, target.name)


def check_data_name(pattern: str) -> None:
    """Check a name for data files, with `{}` in the place of the model's."""
    made = pattern.replace(ITSELF, "model.onnx")
    if not made or made in (".", "..") or made != PurePosixPath(made).name or "\\" in made or "\0" in made:
        raise UsageError(
            f"the name of a data file is a plain name, not {pattern!r}: it lies beside the model"
        )
    if pattern == ITSELF or len(made.encode(errors="replace")) > LONGEST_NAME:
        raise UsageError(
            f"{pattern!r} is no name for a data file: it needs one of its own, of up to {LONGEST_NAME} bytes"
        )
