"""The only importer of onnxruntime: sessions on an execution provider, and what they can tell.

onnxruntime is imported when a session or a probe is first needed, never with this package, and without its telemetry,
which would leave a device id and a database in the user's home: after the import it is too late to switch that off.
Processes that this one starts inherit the variable.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.session import (
    CPU,
    CUDA,
    FATAL_ONLY,
    SUFFIX,
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
