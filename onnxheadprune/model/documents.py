"""Reading text and JSON of other programs, with size limits and clear errors."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import stat
from codecs import getincrementaldecoder
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from onnxheadprune.errors import UsageError

MAX_TEXT = 2**23
"""Bytes of a JSON or CSV file; the scores of a thousand sites take a tenth of it."""


CONFIGURATION = "the configuration"
Document: TypeAlias = Mapping[str, Any]
"""A result as JSON-ready data."""


class NotJsonError(ValueError):
    """The text is not JSON, or malformed JSON."""


def parse_json(text: str, *, once: bool = False) -> Any:
    """Parse a JSON text."""
    try:
        return json.loads(text, object_pairs_hook=_each_once if once else None)
    except NotJsonError:
        raise
    except json.JSONDecodeError as error:
        raise NotJsonError(f"not JSON: {error.msg} in line {error.lineno}") from error
    except RecursionError as error:
        raise NotJsonError("no JSON that this tool reads: it is nested too deeply") from error
    except ValueError as error:
        raise NotJsonError("no JSON that this tool reads: a number has too many digits") from error


def json_of(text: str, where: str, *, once: bool = False) -> Any:
    """Parse a JSON text that another program or a person wrote.

    Args:
        text: the text.
        where: what it is called in messages.
        once: reject duplicate keys.

    Raises:
        UsageError: if it is no JSON.
    """
    try:
        return parse_json(text, once=once)
    except NotJsonError as error:
        raise UsageError(f"{where} is {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise NotJsonError(f"no JSON that this tool reads: {key[:60]!r} is given twice")
        found[key] = value
    return found


def kind_of(path: str | os.PathLike[str]) -> int | None:
    """The file mode of a path, None if it does not exist or is invalid (too long, a NUL)."""
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError):
        return None


def require_there(path: str | os.PathLike[str], what: str = "") -> int:
    """The file mode of an existing path of any kind."""
    try:
        return Path(path).stat().st_mode
    except (OSError, ValueError) as error:
        missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        reason = (
            "does not exist" if missing else f"cannot be read: {getattr(error, 'strerror', None) or error}"
        )
        raise UsageError(f"{what}{path} {reason}") from error


def require_model(path: Path) -> int:
    """The file mode of the path of a model."""
    try:
        return require_there(path)
    except UsageError as error:
        address = re.fullmatch(r"https?:/+[^/]+/?(.*)", str(path))
        missing, name = (str(error), path) if address is None else ("a URL is not read", address[1] or "NAME")
        is_file = path.suffix == ".onnx"
        if is_file and address is not None:
            raise UsageError(f"{missing}; download the file, and give its path") from error
        if is_file or path.name.isdigit() or not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise UsageError(f"{missing}; a model of a hub is exported first: {_export(name)}") from error


def _export(model: str | Path) -> str:
    """The command that exports a model of PyTorch."""
    return f"optimum-cli export onnx --model {shlex.quote(str(model))} FOLDER"


PYTORCH = ("*.safetensors", "pytorch_model*.bin")
"""Files with weights of PyTorch, as transformers names them."""


def without_models(folder: Path) -> str:
    """A sentence on a folder without any ONNX file, and what to do where it holds a model of PyTorch."""
    weights = next((file.name for pattern in PYTORCH for file in sorted(folder.glob(pattern))), None)
    missing = f"there is no .onnx file in {folder}"
    if weights is None:
        return missing
    return f"{missing}; it holds a model of PyTorch ({weights}), which is exported first: {_export(folder)}"


def require_model_file(path: Path) -> None:
    """Refuse a folder where one model is needed, and whatever else is no file."""
    mode = require_model(path)
    if stat.S_ISDIR(mode):
        files = sorted((*path.glob("*.onnx"), *path.glob("*/*.onnx")))
        if not files:
            raise UsageError(without_models(path))
        raise UsageError(f"{path} is a folder, and one model is needed here, like {files[0]}")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{path} is not a file")


def regular_file(path: str | os.PathLike[str], what: str) -> Path:
    """The path, if it is a regular file. Others (a FIFO, a device) may block, or never end."""
    mode = require_there(path, f"{what} ")
    if not stat.S_ISREG(mode):
        kind = "a device or socket"
        if stat.S_ISDIR(mode):
            kind = "a folder"
        elif stat.S_ISFIFO(mode):
            kind = "a FIFO"
        raise UsageError(f"{what} {path} is {kind}; it must be a regular file, so write it to one first")
    return Path(path)


def read_text(path: str | os.PathLike[str], what: str, limit: int = MAX_TEXT) -> str:
    """A UTF-8 file."""
    file = regular_file(path, what)
    try:
        with file.open("rb") as stream:
            content = stream.read(limit + 1)
        # What is read may end within a character.
        text = getincrementaldecoder("utf-8-sig")().decode(content, final=len(content) <= limit)
        if len(content) > limit:
            raise UsageError(
                f"{what} {path} is larger than {limit:,} bytes, the most that is read of such a file"
            )
        return text
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror or error}") from error


def read_object(path: Path, what: str, limit: int = MAX_TEXT) -> dict[str, Any]:
    """The JSON object in a file of other programs.

    Raises:
        UsageError: if the file cannot be read, or holds something else.
    """
    found = json_of(read_text(path, what, limit), f"{what} {path}")
    if not isinstance(found, dict):
        raise UsageError(f"{what} {path} is no JSON object")
    return found


def finite(value: Any) -> Any:
    """A document without infinities, which JSON lacks: replaced by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
