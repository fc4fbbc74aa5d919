"""Inputs to run a model on: random ones made from the graph alone, and the user's own."""
