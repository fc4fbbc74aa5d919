"""Counts that differ from those of the module's attributes, by architecture, and why."""

from __future__ import annotations

KNOWN: dict[str, str] = {
    "levit": "its containers number attention and network one after the other; a layer is one of each",
    "timm-levit": "the attention that halves a stage lies in no container of layers",
    "timm-davit": "a block of the container is a spatial and a channel block, each with attention and network",
}
"""The reason in plain words; a row that is not named here is a failure."""
