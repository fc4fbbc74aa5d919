"""Heads, which of them may be removed, the plan of a cut, and the masked reference."""
