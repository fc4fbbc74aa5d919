"""Operators that a one-node model can run, with the strategies of all families registered."""

from __future__ import annotations

from tests.liveness import (
    cases_contraction,
    cases_elementwise,
    cases_fused,
    cases_indexing,
    cases_mixing,
    cases_pieces,
    cases_quantized,
    cases_views,
)
from tests.liveness.strategies import STRATEGIES
from tests.operator_records import RULES

assert cases_contraction and cases_elementwise and cases_indexing and cases_mixing
assert cases_pieces and cases_views and cases_fused and cases_quantized

RUNNABLE = [key for key in RULES if key in STRATEGIES]
