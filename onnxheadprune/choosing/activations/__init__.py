"""Activations on the user's data: inputs, second moments, and drift."""
