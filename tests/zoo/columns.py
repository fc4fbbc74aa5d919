"""The columns of the supported-graphs table: which kind of graph a variant is."""

from __future__ import annotations

import re

COLUMNS = {
    "ts": "TorchScript 14/17",
    "dyn": "dynamo 18/23",
    "raw": "unoptimised",
    "ort": "ORT basic/extended",
    "fused": "ORT fused attention",
    "slim": "onnxslim",
    "sim": "onnxsim",
    "half": "fp16/bf16",
    "int8": "dynamic int8",
    "qdq": "QDQ/QLinear",
    "nbits": "4/8-bit MatMulNBits",
    "scopes": "If/Loop/functions",
    "data": "external data",
}

FOREIGN = {"export": "as exported", "opt": "onnxoptimizer"}
"""Further columns for exporters with an environment of their own (`tests.zoo.foreign`)."""

SAMPLE = (
    *("ts14", "ts17", "dyn18", "dyn23", "ts17raw", "dyn18raw", "ts17+ort-basic", "ts17+ort-extended"),
    *("dyn18+ort-extended", "ts17+ort-fused", "dyn18+ort-fused", "ts17+slim", "dyn18+slim", "ts17+sim"),
    *("ts17+fp16", "ts17half", "ts17+bf16w", "ts17+int8dyn", "ts17+qdq", "ts17+qop", "ts17+nbits4"),
    *("ts17+nbits8", "ts17+in-if", "ts17+in-loop", "ts17+functions", "ts17+extdata"),
)
"""Variants that fill every column; the others combine these steps or repeat them on another export."""

_STEPS = {
    "slim": ("slim",),
    "sim": ("sim",),
    "ort": ("ort-basic", "ort-extended", "O1"),
    "half": ("fp16", "bf16w", "ts17half", "dyn18half", "common16", "genai-fp16-cpu", "genai-fp16-cuda"),
    "fused": ("ort-fused", "O2", "O3"),
    "data": ("extdata",),
    "scopes": ("in-if", "in-loop", "functions"),
    "int8": ("int8dyn", "ortq"),
    "qdq": ("qdq", "qdq-tensor", "qop"),
    "nbits": ("nbits4", "nbits8", "genai-int4-cpu", "genai-int4-cuda"),
    "opt": ("optimizer",),
    "raw": ("ts17raw", "dyn18raw"),
}
_RANK = ("raw", "ort", "slim", "sim", "opt", "data", "half", "fused", "scopes", "int8", "qdq", "nbits")


def column(variant: str) -> str:
    """The key of a variant's column; of several steps the one that changes a graph most counts."""
    steps = variant.split("+")
    found = [key for key in _RANK if any(step in _STEPS[key] for step in steps)]
    if found:
        return found[-1]
    return next((key for key in ("ts", "dyn") if re.match(rf"{key}\d", steps[0])), "export")
