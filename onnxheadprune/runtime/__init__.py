"""The only importer of onnxruntime: sessions on an execution provider, and what they can tell.

onnxruntime is imported when a session or a probe is first needed, never with this package.
"""

from onnxheadprune.runtime.session import (
    CPU,
    CUDA,
    FATAL_ONLY,
    SUFFIX,
    Array,
    Provider,
    Session,
    loads_without_crash,
    onnx_runtime,
    saturates_here,
    sentence,
    survives_optimization,
    versions,
)

__all__ = [
    "CPU",
    "CUDA",
    "FATAL_ONLY",
    "SUFFIX",
    "Array",
    "Provider",
    "Session",
    "loads_without_crash",
    "onnx_runtime",
    "saturates_here",
    "sentence",
    "survives_optimization",
    "versions",
]
