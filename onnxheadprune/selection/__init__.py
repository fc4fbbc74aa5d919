"""Which heads go? Legal paths, their costs, and the cheapest choice across sites."""

from onnxheadprune.selection.allocate import Limits
from onnxheadprune.selection.evidence import Evidence
from onnxheadprune.selection.requirements import Requirements
from onnxheadprune.selection.select import search_space, select_heads
from onnxheadprune.selection.space import SearchSpace, Selection, Space

__all__ = [
    "Evidence",
    "Limits",
    "Requirements",
    "SearchSpace",
    "Selection",
    "Space",
    "search_space",
    "select_heads",
]
