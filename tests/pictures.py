"""What can be wrong with a picture: text that is cut off, covers other text, or is too small."""

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
    for text, size, box in shown:
        if not (
            box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1
        ):
            found.append(f"{text!r} is cut off")
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


# How a colour looks to people without one kind of cones (Machado, Oliveira and Fernandes 2009, severity 1),
# as matrices on linear RGB.
PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
TRITAN = ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900))


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


def apart(one: str, other: str, eyes: tuple[tuple[float, ...], ...]) -> float:
    """How far apart two colours are to such eyes, in CIE L*a*b* units (about 2 can just be told apart)."""

    def lab(colour: str) -> npt.NDArray[np.float64]:
        rgb = np.clip(np.asarray(eyes) @ linear(colour), 0, 1)
        to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
        xyz = np.asarray(to_xyz) @ rgb / (0.9505, 1.0, 1.089)
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return float(np.linalg.norm(lab(one) - lab(other)))
