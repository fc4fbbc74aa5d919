"""Kinds of units that a target may name: heads, the units of other kinds, and sublayers as a whole."""

from __future__ import annotations

from onnxheadprune.attention.sites import kinds

HEADS, LAYERS = "heads", "layers"
HEADS_ALONE = frozenset({HEADS})


def wishable() -> tuple[str, ...]:
    """Return what a wish may ask for."""
    return (*scorable(), LAYERS)


def scorable() -> tuple[str, ...]:
    """Return what has scores: units of all kinds, which sublayers as a whole are not."""
    return (HEADS, *(kind.UNITS for kind in kinds.KINDS if kind.CHOSEN))
