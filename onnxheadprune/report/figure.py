"""Pictures on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxheadprune.errors import UsageError


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure.

    Raises:
        UsageError: if the file cannot be written.
    """
    import matplotlib as mpl

    # Without dates and with names that are no random numbers the same data gives the same bytes.
    dateless: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    try:
        with mpl.rc_context({"svg.hashsalt": "onnxheadprune"}):
            figure.savefig(path, dpi=150, metadata=dateless.get(path.suffix.lower()))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
