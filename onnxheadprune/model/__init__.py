"""The file: loading, saving, its bytes on disk, and a read-only view of its graph."""
