"""Inputs to run a model on: random ones made from the graph alone, and the user's own."""

from onnxheadprune.runtime.feeds.data import DataSource, Sample, load_data
from onnxheadprune.runtime.feeds.fill import Padding
from onnxheadprune.runtime.feeds.generate import Case, Feed, FeedMaker, Outputs, first_that_runs, is_finite
from onnxheadprune.runtime.feeds.inputs import Input, Role, graph_inputs
from onnxheadprune.runtime.feeds.prefill import completed
from onnxheadprune.runtime.feeds.symbols import Roles, Sizes

__all__ = [
    "Case",
    "DataSource",
    "Feed",
    "FeedMaker",
    "Input",
    "Outputs",
    "Padding",
    "Role",
    "Roles",
    "Sample",
    "Sizes",
    "completed",
    "first_that_runs",
    "graph_inputs",
    "is_finite",
    "load_data",
]
