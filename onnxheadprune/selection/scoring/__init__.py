"""What is every head and neuron worth? From weights, activations, reconstruction errors, ablation and gradients."""

from onnxheadprune.selection.scoring.methods import METHODS, Method
from onnxheadprune.selection.scoring.score import score_heads
from onnxheadprune.selection.scoring.score_files import read_scores, write_scores
from onnxheadprune.selection.scoring.scores import HeadScores, SiteScores

__all__ = ["METHODS", "HeadScores", "Method", "SiteScores", "read_scores", "score_heads", "write_scores"]
