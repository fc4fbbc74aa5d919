"""One style for all pictures: sizes that are read at half size, colours that everybody tells apart."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from onnxheadprune.model.spelling import escaped, shortened

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette: told apart by colour-blind readers as well."""
MARKERS = "osD^vPX"
"""One per colour, for readers of a black and white print."""
DRIFT, ACCURACY, SPEED = COLOURS[1], COLOURS[2], COLOURS[0]
"""A quantity has the same colour in every picture."""
GREY = "#6b7177"
WIDTH = 6.4
"""Inches of a picture with one panel: the width of a page's text."""
SPAN = 10
"""Times that the largest value may be the smallest one on a linear axis that begins at zero."""
MARGIN = 0.08
"""Inches around each panel."""
DOTS = 192
"""Per inch, for notebooks; shown at half of that."""
LEAST_LABEL = 12
"""Characters that are left of a label however narrow the picture is."""

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
    "grid.color": "#d9dcdf",
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
        content = io.BytesIO()
        self.savefig(content, format="png", dpi=DOTS)
        width, height = self.get_size_inches()
        return content.getvalue(), {"width": round(width * DOTS / 2), "height": round(height * DOTS / 2)}


def picture(width: float, height: float) -> Picture:
    """An empty picture."""
    made = Picture(figsize=(width, height), layout="constrained")
    made.set_layout_engine("constrained", w_pad=MARGIN, h_pad=MARGIN)
    return made


def around(figure: Figure, axes: Axes, width: float, height: float) -> None:
    """Give one panel its size, and the figure that of the panel with all that is written around it."""
    figure.set_layout_engine("none")
    # In a large figure first, where nothing is cut off that is to be measured.
    figure.set_size_inches(4 * width + 20, 4 * height + 20)
    _place(figure, axes, 10, 10, width, height)
    own = figure.get_tightbbox()
    # Labels have their places now. Older versions of matplotlib take one for no longer than its axis.
    labels = [
        part for each in (axes, *axes.child_axes) for part in (each.title, each.xaxis.label, each.yaxis.label)
    ]
    extents = [part.get_window_extent() for part in labels if part.get_text()]
    box = Bbox.union([own, *(extent.transformed(figure.dpi_scale_trans.inverted()) for extent in extents)])
    left, below = 10 - box.x0 + MARGIN, 10 - box.y0 + MARGIN
    figure.set_size_inches(box.width + 2 * MARGIN, box.height + 2 * MARGIN)
    _place(figure, axes, left, below, width, height)


def _place(figure: Figure, axes: Axes, left: float, below: float, width: float, height: float) -> None:
    across, up = figure.get_size_inches()
    axes.set_position((left / across, below / up, width / across, height / up))


def factors(axes: Axes, low: float, high: float) -> None:
    """Make equal factors equally far apart on the horizontal axis, with numbers as people write them."""
    axes.set_xscale("log")
    axes.set_xlim(low / 1.25, high * 1.25)
    # One number per power of ten says too little of one or two of them, and three say too much of many.
    subs = (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(spelled))
    axes.xaxis.set_minor_locator(NullLocator())


def spelled(value: float, _: float | None = None) -> str:
    """A number of an axis."""
    return f"{value:.3g}"


def legend_below(figure: Figure, entries: list[tuple[Any, str]]) -> None:
    """A legend under the panels, in as many columns as fit; labels are shortened where not even one does."""
    handles = [handle for handle, _ in entries]
    full = [escaped(label) for _, label in entries]
    room = figure.bbox.width * 0.97
    # The layout needs the size of a legend, not its place, so trial and error is all there is to measure it by.
    for most in (max(map(len, full)), 60, 48, 36, 24, LEAST_LABEL):
        labels = _numbered([shortened(label, most) for label in full])
        for columns in range(min(len(labels), 4), 0, -1):
            legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns)
            if legend.get_window_extent().width <= room:
                return
            legend.remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=1)


def _numbered(labels: list[str]) -> list[str]:
    same = {label for label in labels if labels.count(label) > 1}
    return [f"{index}: {label}" if label in same else label for index, label in enumerate(labels)]
