"""The text of the character sample: what ships with Python, as ids of printable ASCII."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt

FIRST, LAST = 32, 126
NEWLINE = LAST - FIRST + 1
LEAST_LENGTH, HELD_OUT = 60, 0.06
SKIPPED = ("test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__")

Ids = npt.NDArray[np.int64]


def encode(text: str) -> Ids:
    """Ids of a text: 0-94 for the characters from space to tilde, 95 for a newline; others are left out."""
    codes = np.frombuffer(text.replace("\n", chr(LAST + 1)).encode("ascii", "ignore"), np.uint8)
    return codes[codes >= FIRST].astype(np.int64) - FIRST


def decode(ids: npt.ArrayLike) -> str:
    """The text of ids, the reverse of `encode`."""
    return "".join("\n" if number == NEWLINE else chr(number + FIRST) for number in np.asarray(ids).ravel())


def documents() -> list[str]:
    """The help topics of `pydoc` and the docstrings of the standard library's modules, each text once."""
    folder = Path(sysconfig.get_path("stdlib"))
    modules = [
        path for path in sorted(folder.rglob("*.py")) if not {*path.relative_to(folder).parts} & {*SKIPPED}
    ]
    texts = [*topics.values(), *(text for path in modules for text in _docstrings(path))]
    return list(dict.fromkeys(text.strip() for text in texts if len(text) >= LEAST_LENGTH))


def _docstrings(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # files that are broken on purpose
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield inspect.cleandoc(text)


def streams() -> tuple[Ids, Ids]:
    """All documents one after the other, in two parts: to train on, and held out.

    The documents' own digests decide, so that a text is on the same side whatever else there is.
    """
    parts: tuple[list[str], list[str]] = ([], [])
    for text in documents():
        digest = hashlib.sha256(text.encode()).digest()
        parts[int.from_bytes(digest[:4], "big") < HELD_OUT * 2**32].append(text)
    return encode("\n\n".join(parts[0])), encode("\n\n".join(parts[1]))
