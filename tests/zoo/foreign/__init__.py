"""Exporters that live in their own environment: each module builds folders of the zoo (see README.md)."""
