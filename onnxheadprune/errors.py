"""The exceptions of the package: one hierarchy, one exit code each.

A `Refusal` (see `liveness/registry.py`) is a legal answer and a value. An exception of this module says that a
command could not do what was asked; anything else that escapes is a bug. Names of settings stand in backticks in its
sentence, and the front end that prints it spells them (`settings/words.py`).
"""

from __future__ import annotations

import errno
import re
from typing import Any, ClassVar, TypeVar

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk. Of outputs `sentences` tells; where nothing does, it is about temporary files."""
_NO_MEMORY = re.compile(r"bad_?alloc|bad allocation|(?i:failed to allocate memory|out of memory)")


class HeadPruneError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 3


class UsageError(HeadPruneError):
    """The request itself is wrong: a path, an option, a head spec."""

    exit_code = 2


class ModelError(HeadPruneError):
    """The file is not a model this tool can read: truncated, invalid, weights missing."""

    exit_code = 3


class InferenceError(ModelError):
    """ONNX Runtime could not load a model, or not run it on these inputs."""

    exit_code = 3


class MissingKernelError(InferenceError):
    """The model asks for what this ONNX Runtime cannot compute, whatever the inputs are."""

    exit_code = 3


class RefusedError(HeadPruneError):
    """The request is understood, and carrying it out would not be exact."""

    exit_code = 3


class ValidationFailedError(HeadPruneError):
    """The pruned model does not equal the masked reference, or could not be shown to.

    Attributes:
        validation: the `Validation` that says so, None where there is none.
    """

    exit_code = 1

    def __init__(self, message: str, validation: Any = None) -> None:
        super().__init__(message)
        self.validation = validation


class ProviderError(HeadPruneError):
    """The asked-for execution provider does not run here."""

    exit_code = 4


def installation(extra: str) -> str:
    """The command that installs what an extra requires. No index has this package, so the command names the others.

    Args:
        extra: an extra of this package, as in "jobs".
    """
    import shlex
    from importlib import metadata

    try:
        required = metadata.requires("onnxheadprune") or []
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return f"pip install -e {shlex.quote(f'.[{extra}]')}, in the checkout"
    pairs = [line.partition(";") for line in required]
    names = [
        name.strip() for name, _, marker in pairs if marker.replace('"', "'").strip() == f"extra == '{extra}'"
    ]
    return f"pip install {' '.join(map(shlex.quote, names))}"


Raised = TypeVar("Raised", bound=HeadPruneError)


def without_frames(error: Raised) -> Raised:
    """Return a copy of an error that is kept: frames of its traceback hold sessions, which would outlive their call."""
    return type(error)(*error.args)


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, without a full stop; its type where it says nothing."""
    text = str(error).strip().splitlines()
    return text[0].strip().rstrip(".") if text else type(error).__name__


def is_interrupt(error: BaseException | None) -> bool:
    """Return whether an interrupt is behind an error: modules that are stopped while they load raise others from it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def shortage(error: BaseException) -> str | None:
    """Return a sentence that names the missing memory or disk space if an error is about either."""
    if isinstance(error, OSError) and error.errno in FULL:
        import tempfile

        return (
            f"no space is left in the temporary folder {tempfile.gettempdir()}, which holds what does not fit into"
            " memory; TMPDIR=FOLDER names another one"
        )
    # Of the memory of native code, only the text of its exceptions tells.
    lacks_memory = isinstance(error, MemoryError) or _NO_MEMORY.search(str(error))
    return "there is not enough memory for this" if lacks_memory else None


def heed(error: BaseException) -> None:
    """Ask before an error of a library, or of the user's code, becomes a sentence about a model or a file.

    Raises:
        KeyboardInterrupt: if one is behind it.
        OSError, MemoryError: if it is about space or memory, of which there is too little here.
    """
    if is_interrupt(error):
        raise KeyboardInterrupt from error
    if shortage(error) is not None:
        raise error if isinstance(error, OSError) else MemoryError(str(error)) from None


def require_packages(what: str, extra: str, *modules: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        UsageError: if one is not; the sentence has the command.
    """
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        are = "are" if missing[1:] else "is"
        raise UsageError(
            f"{what} requires {', '.join(missing)}, which {are} not installed: {installation(extra)}"
        )
