"""Attention sites: tracing, grouping and describing them."""
