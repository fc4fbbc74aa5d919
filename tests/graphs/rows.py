"""All modules with rows."""

from tests.graphs import blocks, caches, heads, missed, models, owned, places, quantized

__all__ = ["blocks", "caches", "heads", "missed", "models", "owned", "places", "quantized"]
