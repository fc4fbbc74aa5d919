"""Operators for onnx's reference implementation: those of ONNX Runtime, and those that it gets wrong in float64."""

from __future__ import annotations

import math

import numpy as np
from onnx.reference.op_run import OpRun

from tests.liveness.masks import Array


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[x.dtype])(x))


class Erf(OpRun):
    """The reference's own works in float32."""

    op_domain = ""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x),)


class StandardGelu(OpRun):
    """The same."""

    op_domain = ""

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        if approximate == "tanh":
            return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
        return (x * 0.5 * (1 + _erf(x * math.sqrt(0.5))),)


StandardGelu.__name__ = "Gelu"


class Gelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, approximate: str = "none") -> tuple[Array]:
        assert approximate == "none"
        return (x * 0.5 * (1 + _erf(x * math.sqrt(0.5))),)


class QuickGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, alpha: float = 1.702) -> tuple[Array]:
        return (x / (1 + np.exp(-alpha * x)),)


class Mean(OpRun):
    """The reference's own does not broadcast."""

    op_domain = ""

    def _run(self, *operands: Array) -> tuple[Array]:
        return (np.asarray(sum(operands) / len(operands)),)


class Pad(OpRun):
    """With zeros; the reference's own does not crop."""

    op_domain = ""

    def _run(self, x: Array, pads: Array, mode: str | None = None) -> tuple[Array]:
        assert mode in (None, "constant")
        each = pads.reshape(2, -1).T
        cut = tuple(slice(max(0, -a), n - max(0, -z)) for n, (a, z) in zip(x.shape, each, strict=True))
        return (np.pad(x[cut], np.maximum(each, 0)),)


class Conv(OpRun):
    """By definition: a sum over the positions of the kernel."""

    op_domain = ""

    def _run(
        self, x, w, b=None, auto_pad=None, dilations=None, group=1, kernel_shape=None, pads=None, strides=None
    ):  # type: ignore[no-untyped-def]
        rank = w.ndim - 2
        dilations, strides, pads = dilations or [1] * rank, strides or [1] * rank, pads or [0] * 2 * rank
        padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
        sizes = [
            (n - d * (k - 1) - 1) // s + 1
            for n, d, k, s in zip(padded.shape[2:], dilations, w.shape[2:], strides, strict=True)
        ]
        grouped = w.reshape(group, -1, *w.shape[1:])
        y = np.zeros((len(x), group, grouped.shape[1], *sizes), x.dtype)
        for place in np.ndindex(*w.shape[2:]):
            seen = padded[(slice(None), slice(None), *_met(place, dilations, sizes, strides))]
            seen = seen.reshape(len(x), group, -1, *sizes)
            y += np.einsum("bgc...,goc->bgo...", seen, grouped[(..., *place)])
        y = y.reshape(len(x), -1, *sizes)
        return (y if b is None else y + b.reshape(-1, *[1] * rank),)


class ConvTranspose(OpRun):
    """The same the other way round."""

    op_domain = ""

    def _run(
        self,
        x,
        w,
        b=None,
        auto_pad=None,
        dilations=None,
        group=1,
        kernel_shape=None,
        output_padding=None,
        output_shape=None,
        pads=None,
        strides=None,
    ):  # type: ignore[no-untyped-def]
        rank = w.ndim - 2
        dilations, strides, pads = dilations or [1] * rank, strides or [1] * rank, pads or [0] * 2 * rank
        sizes = x.shape[2:]
        whole = [
            (n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip(sizes, strides, dilations, w.shape[2:], strict=True)
        ]
        split = x.reshape(len(x), group, -1, *sizes)
        grouped = w.reshape(group, -1, *w.shape[1:])
        y = np.zeros((len(x), group * w.shape[1], *whole), x.dtype)
        for place in np.ndindex(*w.shape[2:]):
            part = np.einsum("bgc...,gco->bgo...", split, grouped[(..., *place)])
            met = (slice(None), slice(None), *_met(place, dilations, sizes, strides))
            y[met] += part.reshape(len(x), -1, *sizes)
        cut = tuple(slice(a, n - z) for a, z, n in zip(pads[:rank], pads[rank:], whole, strict=True))
        return (y[(slice(None), slice(None), *cut)],)


def _met(place, dilations, sizes, strides):  # type: ignore[no-untyped-def]
    """The elements of an input that one position of a kernel meets."""
    return tuple(
        slice(at * d, at * d + (n - 1) * s + 1, s)
        for at, d, n, s in zip(place, dilations, sizes, strides, strict=True)
    )


FOREIGN = [Erf, StandardGelu, Gelu, QuickGelu, Mean, Pad, Conv, ConvTranspose]
