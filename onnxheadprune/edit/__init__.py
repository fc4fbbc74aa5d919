"""Edits as values, the plan, and the only code that applies it."""
