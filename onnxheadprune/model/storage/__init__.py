"""Weights that stay on disk: where a tensor's bytes lie, how they are read, cut, copied and committed."""
