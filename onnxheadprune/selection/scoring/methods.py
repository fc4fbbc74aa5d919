"""The ways to say what a unit is worth."""

from __future__ import annotations

from typing import get_args

from onnxheadprune.settings.cutting import Method

METHODS: tuple[Method, ...] = get_args(Method)
SHARES: tuple[Method, ...] = ("weight", "activation", "fluctuation", "reconstruction")
"""Those whose scores are shares of a site, which order its units and do not compare across sites."""
WITHOUT_DATA = "weight"
"""The one that needs no data."""
FISHER: Method = "fisher"
TAYLOR: Method = "taylor"
