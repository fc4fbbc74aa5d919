"""Pictures for papers, slides and notebooks: matplotlib figures in one style, to look at or to save."""

from onnxheadprune.cli.report.pictures.curve import Against, plot_curve
from onnxheadprune.cli.report.pictures.latency import plot_latency
from onnxheadprune.cli.report.pictures.results import plot_heads

__all__ = ["Against", "plot_curve", "plot_heads", "plot_latency"]
