"""Generation in one operator: a decoder of its own runs over and over, its cache handed from step to step."""

from __future__ import annotations

from onnxheadprune.model.graph.facts import GENERATES

GENERATES.add("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch", domain="com.microsoft")
