"""Scores of heads and neurons, from weights, activations, reconstruction errors, ablation and gradients."""
