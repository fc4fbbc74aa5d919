"""Figures on the outputs of a model, from a measurement as documents have it: each report shows these."""

from __future__ import annotations

import re
from collections.abc import Iterator

from onnxheadprune.model.documents import Document
from onnxheadprune.model.facts import Figure
from onnxheadprune.model.spelling import accuracy, many, share

FINE = 1000
"""Labels from which an accuracy has two decimals."""
_SEEN = re.compile(r"which the (\w+) has seen")
_RANDOM = "random inputs"


def figures(measured: Document) -> Iterator[Figure]:
    """Figures on the outputs of one model."""
    found, metric, drift = measured["accuracy"], measured["metric"], measured["drift"]
    of = f" of {measured['file']}" if measured.get("file") else ""
    if found:
        was, now = found["original"], found["pruned"]
        change = "" if was == now else f"{100 * (now - was):+.{2 if found['count'] >= FINE else 1}f} points"
        spell = accuracy if found["count"] >= FINE else share
        note = on_words(found["measured_on"], found["count"], "label")
        yield Figure(f"accuracy{of}", spell(was), spell(now), change, note)
    if metric:
        was, now = metric["original"], metric["pruned"]
        note = on_words(metric["measured_on"], metric["samples"])
        yield Figure(f"{metric['name']}{of}", f"{was:.4g}", f"{now:.4g}", f"{now - was:+.4g}", note)
    if drift is not None:
        yield drift_figure(measured, of)


def drift_figure(measured: Document, of: str = "") -> Figure:
    """The drift of one model, from a measurement as documents have it."""
    drift = measured["drift"]
    if isinstance(drift, float):
        unit, value, where = measured["drift_unit"], drift, measured
    else:
        unit, value, where = drift["measure"], drift["value"], drift
    on = on_words(where["measured_on"], where["samples"])
    if value is None:
        return Figure(f"cosine{of}", f"{drift['cosine']:.4f}", note=on)
    spelled_unit = "KL" if unit == "kl" else f"({unit})"
    return Figure(f"drift{of}", f"{_few(value)} {spelled_unit}", note=on)


def _few(value: float) -> str:
    """A drift in one or two digits; no more of it is known."""
    return f"{value:.2g}" if value >= 0.001 or not value else f"{value:.1g}"


def on_words(measured_on: str, number: int, noun: str = "sample") -> str:
    """The data that a figure was measured on: "16 held-out labels", "450 labels"."""
    if measured_on == _RANDOM:
        return _RANDOM
    seen, held = _SEEN.search(measured_on), "held" in measured_on
    told = many(number, f"{'held-out ' if held else ''}{noun}")
    return f"{told} that the {seen[1]} has seen" if seen is not None and not held else told


def clauses(measured: Document, *, made: bool = False) -> Iterator[str]:
    """Clauses on the outputs, with the first figure before and after that there is; else the drift.

    Args:
        made: also on random inputs.
    """
    for figure in figures(measured):
        on = f" on {figure.note}"
        if figure.note == _RANDOM and not made:
            continue
        if figure.after:
            same = figure.before == figure.after
            yield f"{figure.name} {'unchanged' if same else f'{figure.before} -> {figure.after}'}{on}"
            return
        yield f"{figure.name} {figure.before}{on}"
