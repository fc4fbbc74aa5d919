"""Pictures for papers, slides and notebooks: matplotlib figures in one style, to look at or to save."""

from onnxheadprune.reporting.pictures.curve import Against, plot_curve
from onnxheadprune.reporting.pictures.heads import plot_heads
from onnxheadprune.reporting.pictures.latency import plot_latency

__all__ = ["Against", "plot_curve", "plot_heads", "plot_latency"]
