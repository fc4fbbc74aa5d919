"""One scoring method per file; `settings/registry.py` finds them."""
