"""Which heads go? Legal paths, their costs, and the cheapest choice across sites."""

from onnxheadprune.selection.allocate import Limits
from onnxheadprune.selection.select import Ground, Selection, ground, select_heads

__all__ = ["Ground", "Limits", "Selection", "ground", "select_heads"]
