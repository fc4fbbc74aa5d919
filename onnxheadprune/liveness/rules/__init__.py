"""All liveness rules, one file per family of operators; importing this package registers them."""

from onnxheadprune.liveness.rules import (
    contraction,
    control,
    convolution,
    elementwise,
    indexing,
    normalization,
    pieces,
    reduction,
    views,
)

__all__ = [
    "contraction",
    "control",
    "convolution",
    "elementwise",
    "indexing",
    "normalization",
    "pieces",
    "reduction",
    "views",
]
