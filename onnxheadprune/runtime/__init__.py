"""The only importer of onnxruntime: sessions on an execution provider, and what they can tell.

onnxruntime is imported when a session or a probe is first needed, never with this package.
"""

from onnxheadprune.runtime.bound import Bound, BoundOptions, BoundSession
from onnxheadprune.runtime.footprint import Footprint, footprint
from onnxheadprune.runtime.machine import Card, cards, cuda_of_driver, load, machine, usable_cores
from onnxheadprune.runtime.session import (
    CPU,
    CUDA,
    FATAL_ONLY,
    SUFFIX,
    Array,
    Provider,
    Session,
    onnx_runtime,
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
    "Session",
    "cards",
    "cuda_of_driver",
    "footprint",
    "load",
    "machine",
    "onnx_runtime",
    "sentence",
    "survives_optimization",
    "usable_cores",
    "versions",
]
