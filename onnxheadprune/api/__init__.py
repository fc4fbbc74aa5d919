"""The Python API: the commands as functions that never print."""
