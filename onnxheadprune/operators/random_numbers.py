"""Operators that draw random numbers. None has a propagation rule: what they draw stays whole."""

from __future__ import annotations

from onnxheadprune.model.graph.operator import DRAWS_OUTSIDE_STANDARD, Roles
from onnxheadprune.operators.record import operator

operator("com.microsoft.BitmaskDropout", kinds=(DRAWS_OUTSIDE_STANDARD,), roles=Roles(training_mode=2))
operator(
    "com.microsoft.BiasDropout",
    "com.microsoft.BitmaskBiasDropout",
    kinds=(DRAWS_OUTSIDE_STANDARD,),
    roles=Roles(training_mode=4),
)
