"""Weights on disk: location, reading, cutting, copying and atomic writes of tensor data."""
