"""Plots for papers, slides and notebooks: matplotlib figures in one style, and how they are written to files.

Where matplotlib has no folder of its own in the user's home yet, it gets a temporary one for its list of fonts.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxheadprune.errors import UsageError, require_packages
from onnxheadprune.model.storage.claims import Making
from onnxheadprune.model.storage.writing import temporary_folder_of, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
DOTS = 200
"""Per inch of a .png."""
PICTURE_MARK, JSON_MARK = "onnxheadprune sweep", '"drift_unit"'
"""Marks near the start of the two files of a curve."""


def curve_files(output: Path) -> tuple[Path, Path]:
    """The JSON and the picture of a curve: one is named, the other is beside it."""
    if output.suffix.lower() == ".json":
        return output, output.with_suffix(".png")
    return output.with_suffix(".json"), output


def _has_matplotlib_a_home() -> bool:
    folders = [
        os.environ.get("XDG_CACHE_HOME") or "~/.cache",
        os.environ.get("XDG_CONFIG_HOME") or "~/.config",
    ]
    homes = [Path("~/.matplotlib"), *(Path(folder, "matplotlib") for folder in folders)]
    with contextlib.suppress(RuntimeError):  # no home
        return any(home.expanduser().exists() for home in homes)
    return True


if "matplotlib" not in sys.modules and not _has_matplotlib_a_home():
    os.environ.setdefault("MPLCONFIGDIR", str(temporary_folder_of(sys)))


def beside_curve(output: Path) -> Making:
    """The picture beside a curve, or the curve beside its picture, which replaces nothing but its like."""
    document, picture = curve_files(output)
    check_picture(picture)
    if output == document:
        return Making("the picture beside the output,", picture, mark=PICTURE_MARK.encode())
    return Making("the JSON beside the output,", document, mark=JSON_MARK.encode())


def check_picture(path: Path) -> None:
    """Check that a plot can be written, before long work."""
    require_packages("a picture", "plots", "matplotlib")
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"a picture is one of {', '.join(FORMATS)}, not {path.name}")


def save_figure(figure: Figure, path: Path, made_by: str = "onnxheadprune") -> None:
    """Write a figure."""
    check_picture(path)
    # Without dates the same data gives the same bytes.
    suffix = path.suffix.lower()
    metadata: dict[str, dict[str, Any]] = {
        ".png": {"Software": made_by},
        ".svg": {"Date": None, "Creator": made_by},
        ".pdf": {"CreationDate": None, "Creator": made_by},
    }
    content = io.BytesIO()
    figure.savefig(content, format=suffix[1:], dpi=DOTS, metadata=metadata[suffix])
    write_file(path, content.getvalue())
