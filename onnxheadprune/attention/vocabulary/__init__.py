"""Vocabularies: the tables that token ids index, and the outputs that have a number for each token."""
