"""A command line that is run to see how it ends: nothing of it reaches the terminal."""

from __future__ import annotations

import contextlib
import io
import traceback
import warnings
from pathlib import Path

import onnxheadprune
from onnxheadprune.cli.outcome import BUG, Ended, ended
from onnxheadprune.errors import RefusedError
from onnxheadprune.workflow.reducing.ending import Ending

_PACKAGE = Path(onnxheadprune.__file__).parent


def attempt(arguments: tuple[str, ...]) -> Ending:
    """How a command line ends.

    Args:
        arguments: the command, its model, and the rest.
    """
    from onnxheadprune.cli import group

    printed, complained = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(complained),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        end = ended(group, arguments)
    lines = [line for line in complained.getvalue().splitlines() if line.startswith("error: ")]
    output = f"{printed.getvalue()}\n{complained.getvalue()}\n{end.message or ''}"
    is_refused = end.exit_code == RefusedError.exit_code
    return Ending(
        end.exit_code,
        "" if end.error is None else type(end.error).__name__,
        _sentence(end) or "".join(lines[-1:]),
        _place(end),
        _left_out(arguments[1]) if is_refused else (),
        output,
    )


def _sentence(end: Ended) -> str:
    """The error; of a bug, what Python says."""
    return str(end.error) if end.exit_code == BUG else end.message or ""


def _place(end: Ended) -> str:
    """The function of this package in which a bug showed: "liveness/sweep.py:sweep"."""
    if end.exit_code != BUG or end.error is None:
        return ""
    frames = [
        frame
        for frame in traceback.extract_tb(end.error.__traceback__)
        if Path(frame.filename).is_relative_to(_PACKAGE)
    ]
    if not frames:
        return ""
    return f"{Path(frames[-1].filename).relative_to(_PACKAGE).as_posix()}:{frames[-1].name}"


def _left_out(model: str) -> tuple[str, ...]:
    """Why nothing of a model is a site, where none is."""
    from onnxheadprune.attention.sites.find import find_sites

    try:
        sites = find_sites(model)
    except Exception:
        # The ending says what is wrong with such a model.
        return ()
    missed = () if sites else (*sites.near_misses, *sites.no_heads)
    return tuple(sorted({item.reason.sentence for item in missed}))
