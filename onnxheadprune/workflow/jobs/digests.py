"""What a step depends on, as digests: a step whose digests are the same is not run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.claims import named_files
from onnxheadprune.workflow.batch_worker import Digests


def digest_of(value: object) -> str:
    """SHA-256 of JSON-ready data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digests_of(named: Mapping[str, str]) -> Digests:
    """SHA-256 of files by their names.

    Args:
        named: what users call them ("data.path"), and a file, a folder, or "module:function", for which the file of the
            module stands.

    Raises:
        UsageError: if one cannot be read.
    """
    found: Digests = {}
    for what, value in named.items():
        for reading in named_files(what, value):
            root = reading.path
            files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
            for path in files:
                found[f"{what}:{path.relative_to(root) if path != root else path.name}"] = digest(path, what)
    return found


def digest(path: Path, what: str) -> str:
    """SHA-256 of a file.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror or error}") from error
