"""Compensation for removed heads: closed-form refits of the remaining weights."""
