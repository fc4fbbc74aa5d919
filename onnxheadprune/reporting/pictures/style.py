"""One style for all pictures: sizes that are read at half size, colours that everybody tells apart."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text

from onnxheadprune.display.spelling import escaped

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: told apart by colour-blind readers as well."""
MARKERS = "osD^vPX"
"""One per colour, for readers of a black and white print."""
DRIFT, ACCURACY, SPEED = COLOURS[1], COLOURS[2], COLOURS[0]
"""A quantity has the same colour in every picture."""
GREY, LINES = "#6b7177", "#d9dcdf"
"""Of axes and of their grid."""
DOTS = 192
"""Per inch, for notebooks; shown at half of that."""

STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "axes.linewidth": 0.9,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINES,
    "grid.linewidth": 0.8,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "black",
    "ytick.labelcolor": "black",
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.borderpad": 0.2,
    "lines.linewidth": 1.8,
    "lines.markersize": 6.5,
    # A dollar sign in a name starts no formula; text of a .pdf can be searched and edited.
    "text.parse_math": False,
    "pdf.fonttype": 42,
    # Labels decide how large a picture is, not the other way round.
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.08,
    # The same data gives the same bytes.
    "svg.hashsalt": "onnxheadprune",
}
"""Matplotlib's settings; the names that they may have are its own secret, and differ between its versions."""


class Picture(Figure):
    """A figure in the style of this module, wherever it is drawn, and shown by notebooks that never saw pyplot."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw it; names are plain text, and control characters in them are spelled out."""
        with mpl.rc_context(STYLE):
            for text in self.findobj(Text):
                text.set_parse_math(False)
                text.set_text(escaped(text.get_text(), lines=True))
            super().draw(renderer)

    def savefig(self, fname: Any, **settings: Any) -> None:
        """Save it as matplotlib does."""
        with mpl.rc_context(STYLE):
            super().savefig(fname, **settings)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        made = io.BytesIO()
        self.savefig(made, format="png", dpi=DOTS)
        content = made.getvalue()
        # The header of a PNG has its size, which is what its labels need.
        width, height = (int.from_bytes(content[place : place + 4], "big") for place in (16, 20))
        return content, {"width": width // 2, "height": height // 2}
