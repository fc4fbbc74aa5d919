"""Operators that draw random numbers. None has a propagation rule: what they draw stays whole."""

from __future__ import annotations

from onnxheadprune.model.graph.facts import (
    DRAWS_BETWEEN,
    DRAWS_CLASSES,
    DRAWS_NORMAL,
    DRAWS_OUTSIDE_STANDARD,
    DRAWS_TRUTHS,
)
from onnxheadprune.model.graph.tables import Roles, declare

declare("RandomNormal", "RandomNormalLike", kinds=(DRAWS_NORMAL,))
declare("RandomUniform", "RandomUniformLike", kinds=(DRAWS_BETWEEN,))
declare("Bernoulli", kinds=(DRAWS_TRUTHS,))
declare("Multinomial", kinds=(DRAWS_CLASSES,))
declare(
    "BitmaskDropout",
    domain="com.microsoft",
    kinds=(DRAWS_OUTSIDE_STANDARD,),
    roles=Roles(training_mode=2),
)
declare(
    "BiasDropout",
    "BitmaskBiasDropout",
    domain="com.microsoft",
    kinds=(DRAWS_OUTSIDE_STANDARD,),
    roles=Roles(training_mode=4),
)
