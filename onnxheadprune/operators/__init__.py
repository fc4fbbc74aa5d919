"""All liveness rules, one file per family of operators; importing this package registers them."""

from onnxheadprune.liveness.rules import (
    attention,
    contraction,
    control,
    convolution,
    elementwise,
    indexing,
    normalization,
    pieces,
    pooling,
    quantization,
    reduction,
    resizing,
    scattering,
    sequences,
    views,
)

__all__ = [
    "attention",
    "contraction",
    "control",
    "convolution",
    "elementwise",
    "indexing",
    "normalization",
    "pieces",
    "pooling",
    "quantization",
    "reduction",
    "resizing",
    "scattering",
    "sequences",
    "views",
]
