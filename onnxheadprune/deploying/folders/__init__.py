"""Folders as exporters write them: which models belong together, and one cut carried through all of them."""
