"""Faults of a picture: text that covers other text, or is too small."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

SMALLEST = 9.0
"""Points; half of it is what the smallest print of journals has."""
WIDEST = 13.33
"""Inches of a picture: a slide."""


def texts(figure: Figure) -> Iterator[tuple[str, float, Bbox]]:
    """What is written, its size in points, and the pixels that it takes; of axes only what they show."""
    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.findobj(lambda item: hasattr(item, "get_xaxis")):
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                outside = not low - 1e-9 <= tick.get_loc() <= high + 1e-9
                hidden |= {
                    label
                    for label, shown in (
                        (tick.label1, tick.label1.get_visible()),
                        (tick.label2, tick.label2.get_visible()),
                    )
                    if outside or not shown or not axes.axison
                }
    for item in figure.findobj(Text):
        if item.get_visible() and item.get_text().strip() and item not in hidden:
            yield item.get_text(), item.get_fontsize(), item.get_window_extent()


def faults(figure: Figure) -> list[str]:
    """What a reader would complain about, nothing for a good picture."""
    found = []
    shown = list(texts(figure))
    for text, size, _ in shown:
        if size < SMALLEST:
            found.append(f"{text!r} is too small")
    for (one, _, first), (other, _, second) in itertools.combinations(shown, 2):
        both = Bbox.intersection(first, second)
        if both is not None and both.width > 1 and both.height > 1:
            found.append(f"{one!r} and {other!r} cover each other")
    for legend in figure.legends:
        box = legend.get_window_extent()
        found += [
            f"the legend covers {axes}" for axes in figure.axes if axes.axison and box.overlaps(axes.bbox)
        ]
    if figure.get_size_inches()[0] > WIDEST:
        found.append("wider than a slide")
    return found


def linear(colour: str) -> npt.NDArray[np.float64]:
    """Linear RGB."""
    value = np.asarray(to_rgb(colour))
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    """Relative luminance, as the Web Content Accessibility Guidelines define it."""
    return float(linear(colour) @ (0.2126, 0.7152, 0.0722))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
