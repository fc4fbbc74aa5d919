"""A model that a command fails on, made small and anonymous while the command keeps failing the same way."""
