"""The exceptions of the package: one hierarchy, one exit code each.

A `Refusal` (see `refusal.py`) is a legal answer and a value. An exception of this module says that a
command could not do what was asked; anything else that escapes is a bug.
"""

from __future__ import annotations

from typing import ClassVar


class HeadPruneError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code: ClassVar[int] = 3


class UsageError(HeadPruneError):
    """The request itself is wrong: a path, an option, a head spec."""

    exit_code = 2


class ModelError(HeadPruneError):
    """The file is not a model this tool can read: truncated, invalid, weights missing."""

    exit_code = 3


class RefusedError(HeadPruneError):
    """The request is understood, and carrying it out would not be exact."""

    exit_code = 3


class ValidationFailedError(HeadPruneError):
    """The pruned model does not equal the masked reference, or could not be shown to."""

    exit_code = 1


class ProviderError(HeadPruneError):
    """The asked-for execution provider does not run here."""

    exit_code = 4
