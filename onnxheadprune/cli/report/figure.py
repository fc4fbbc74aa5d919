"""Pictures on disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from onnxheadprune.cli.report.escaping import escaped
from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.folder import write_file

FORMATS = (".png", ".svg", ".pdf")


def check_picture(path: Path) -> None:
    """Whether a picture can be written there; asked before long work.

    Raises:
        UsageError: if the suffix is unknown or the folder does not exist.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"a picture is one of {', '.join(FORMATS)}, not {path.name}")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist")


def plain(figure: Any) -> Any:
    """The figure, with names as names: a dollar sign starts no formula, and control characters are spelled out."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_text(escaped(text.get_text(), lines=True))
    return figure


def save_figure(figure: Any, path: Path, made_by: str = "onnxheadprune") -> None:
    """Writes a figure.

    Args:
        figure: what to draw.
        path: where to; its suffix decides the format.
        made_by: what a .png says in its head.

    Raises:
        UsageError: if it is no picture's name, or the file cannot be written.
    """
    import matplotlib as mpl

    check_picture(path)
    # Without dates and with names that are no random numbers the same data gives the same bytes.
    suffix = path.suffix.lower()
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": made_by},
        ".svg": {"Date": None},
        ".pdf": {"CreationDate": None},
    }
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "onnxheadprune"}):
        plain(figure).savefig(content, format=suffix[1:], dpi=150, metadata=metadata[suffix])
    write_file(path, content.getvalue())
