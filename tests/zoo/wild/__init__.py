"""Packages in the wild: models that others wrote, with their true head counts, exported and pruned."""
