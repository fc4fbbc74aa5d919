"""Counts that differ from those of the module's attributes, by architecture, and why."""

from __future__ import annotations

KNOWN: dict[str, str] = {}
"""The reason in plain words; a row that is not named here is a failure."""
