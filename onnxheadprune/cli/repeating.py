"""How a run can be repeated: its command line, when and where it ran. A part of every JSON document of a result."""

from __future__ import annotations

import datetime
import os
import shlex

import click


def run_record() -> dict[str, object]:
    """What was called, when, in which folder, by which version, on which machine."""
    from onnxheadprune import __version__
    from onnxheadprune.runtime.host import machine
    from onnxheadprune.runtime.session import versions

    arguments = click.get_current_context().find_root().obj or ()
    return {
        "command": shlex.join(("onnxheadprune", *arguments)),
        "folder": _folder(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"onnxheadprune": __version__, **versions()},
        "machine": machine(),
    }


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a folder that is gone has no Path
    except OSError:
        return None
