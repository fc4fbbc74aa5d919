"""Operators that a one-node model can run, with the strategies of all families registered."""

from __future__ import annotations

from onnx.defs import get_all_schemas
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

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
from tests.model.operator_records import RULES

assert cases_contraction and cases_elementwise and cases_indexing and cases_mixing
assert cases_pieces and cases_views and cases_fused and cases_quantized

UNLISTED = {("", "SimplifiedLayerNormalization")}
"""Operators that ONNX Runtime runs and does not list."""
KNOWN = {(schema.domain, schema.name) for schema in (*get_all_schemas(), *get_all_operator_schema())}
RUNNABLE = [key for key in RULES if key in STRATEGIES and key in KNOWN | UNLISTED]
"""Those that the installed versions have."""
