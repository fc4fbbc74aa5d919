"""Models that others wrote, a row each; no package is imported before its model is built."""
