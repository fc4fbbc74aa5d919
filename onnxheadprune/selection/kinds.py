"""The kinds of units that may go."""

from __future__ import annotations

HEADS, NEURONS, LAYERS = "heads", "neurons", "layers"
KINDS = (HEADS, NEURONS, LAYERS)
"""The kinds of units that a wish may ask for; layers are sublayers as a whole."""
HEADS_ALONE = frozenset({HEADS})
