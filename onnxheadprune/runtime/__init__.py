"""The only importer of onnxruntime: sessions on an execution provider, and what they can tell.

onnxruntime is imported when a session or a probe is first needed, never with this package.
"""

from onnxheadprune.runtime.bound import Bound, BoundOptions, BoundSession
from onnxheadprune.runtime.host import Card, cards, cuda_of_driver, load, machine, usable_cores
from onnxheadprune.runtime.memory import Footprint, footprint
from onnxheadprune.runtime.packages import cuda_libraries, cudnn_version, loaded_libraries, runtimes
from onnxheadprune.runtime.resident import Resident, ResidentSession, home_of
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
    "Bound",
    "BoundOptions",
    "BoundSession",
    "Card",
    "Footprint",
    "Provider",
    "Resident",
    "ResidentSession",
    "Session",
    "cards",
    "cuda_libraries",
    "cuda_of_driver",
    "cudnn_version",
    "footprint",
    "home_of",
    "load",
    "loaded_libraries",
    "loads_without_crash",
    "machine",
    "onnx_runtime",
    "runtimes",
    "saturates_here",
    "sentence",
    "survives_optimization",
    "usable_cores",
    "versions",
]
