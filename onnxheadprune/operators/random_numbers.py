"""Operators that draw random numbers. None has a propagation rule: what they draw stays whole."""

from __future__ import annotations

from onnxheadprune.model.graph.facts import DRAWS_BETWEEN, DRAWS_CLASSES, DRAWS_NORMAL, DRAWS_TRUTHS
from onnxheadprune.model.graph.tables import declare

declare("RandomNormal", "RandomNormalLike", kinds=(DRAWS_NORMAL,))
declare("RandomUniform", "RandomUniformLike", kinds=(DRAWS_BETWEEN,))
declare("Bernoulli", kinds=(DRAWS_TRUTHS,))
declare("Multinomial", kinds=(DRAWS_CLASSES,))
