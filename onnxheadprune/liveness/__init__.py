"""Live sets, propagation rules per operator, the reverse sweep, and the resulting edits."""
