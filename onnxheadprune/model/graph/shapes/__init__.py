"""Shape functions on symbolic dimensions, one file per family of operators."""
