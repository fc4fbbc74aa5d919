"""The record to repeat a run: its command line, when and where it ran. A part of every JSON document of a result."""

from __future__ import annotations

import datetime
import os
import shlex

import click


def run_record() -> dict[str, object]:
    """Return what was called, when, in which folder, by which version, on which machine."""
    from onnxheadprune import __version__
    from onnxheadprune.runtime.host import machine
    from onnxheadprune.runtime.session import versions

    return {
        "command": command_line(),
        "folder": _folder(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"onnxheadprune": __version__, **versions()},
        "machine": machine(),
    }


def command_line() -> str:
    """The words of this call, as a shell takes them."""
    return shlex.join(("onnxheadprune", *(click.get_current_context().find_root().obj or ())))


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a folder that is gone has no Path
    except OSError:
        return None
