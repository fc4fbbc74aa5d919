"""Live sets, propagation rules per operator, the reverse sweep, and the edits it calls for."""
