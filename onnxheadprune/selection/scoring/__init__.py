"""What is every head worth? Scores from weights, activations, reconstruction errors and ablation."""

from onnxheadprune.selection.scoring.score import METHODS, Method, score_heads
from onnxheadprune.selection.scoring.scores import HeadScores, SiteScores, read_scores, write_scores

__all__ = ["METHODS", "HeadScores", "Method", "SiteScores", "read_scores", "score_heads", "write_scores"]
