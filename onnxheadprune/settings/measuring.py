"""Settings of latency benchmarks and of quantization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

from onnxheadprune.settings.setting import (
    BENCHMARK,
    QUANTIZATION,
    Bounds,
    Count,
    Positive,
    Setting,
    Text,
    excludes,
    requires,
)

Strict = Annotated[
    bool,
    Setting(
        "Reject where the graph is not the planned one, so that equality was only tried on inputs.",
    ),
]
To: TypeAlias = Literal["int8-dynamic", "int8-qdq", "int4"]
"""A way to quantize."""
Sizes = Annotated[tuple[Count, ...], Bounds(min_length=1)]
Metric = Annotated[
    Text | None,
    Setting(
        "Your own measure of quality on the data: module:function, called with (outputs, feed) per batch or once with"
        " (outputs, feeds).",
        metavar="M:F",
        rules=(requires("data"),),
        section=BENCHMARK,
    ),
]


def _sizes(text: str) -> tuple[int, ...]:
    """Sizes from "1,8"."""
    try:
        found = tuple(int(item) for item in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of whole numbers like 1,8") from None
    if min(found) < 1:
        raise ValueError("sizes are numbers from 1 up")
    return tuple(dict.fromkeys(found))


def _named_size(text: str) -> dict[str, int]:
    """A name and a size from "height=224"."""
    name, _, size = text.rpartition("=")
    if not name or not size.isdigit() or int(size) < 1:
        raise ValueError(f"{text!r} is not of the form NAME=SIZE")
    return {name: int(size)}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Sizes, duration and conditions of a latency benchmark."""

    SECTION: ClassVar[str] = BENCHMARK

    batch: Annotated[Sizes | None, Setting("Batch sizes [default: 1,8].", metavar="N,N", parse=_sizes)] = None
    seq: Annotated[
        Sizes | None,
        Setting("Sequence lengths [default: 128, or what runs].", metavar="N,N", parse=_sizes),
    ] = None
    past: Annotated[
        Sizes | None,
        Setting("Cache lengths, each followed by one new token.", metavar="N,N", parse=_sizes),
    ] = None
    dims: Annotated[
        Mapping[str, Count],
        Setting(
            "Size of one symbolic dimension; can be repeated.",
            metavar="NAME=N",
            flags="--dim",
            parse=_named_size,
        ),
    ] = field(default_factory=dict)
    repeats: Annotated[
        Annotated[int, Bounds(ge=7)] | None,
        Setting("Blocks per size, instead of a time budget.", metavar="N"),
    ] = None
    time_budget: Annotated[
        Positive,
        Setting("Seconds per size, for all models together.", metavar="S", rules=(excludes("repeats"),)),
    ] = 10.0
    threads: Annotated[
        int | None, Bounds(ge=1, le=1024), Setting("Threads of the CPU's kernels.", metavar="N")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """Quantization by ONNX Runtime's quantizer."""

    SECTION: ClassVar[str] = QUANTIZATION

    to: Annotated[
        To,
        Setting(
            "int8 weights, with ranges of activations measured in every run (int8-dynamic) or found on the data"
            " (int8-qdq); or weights in blocks of four bits (int4, needs the package onnx-ir).",
            rules=(requires("data", value="int8-qdq"),),
        ),
    ]
    per_channel: Annotated[
        bool,
        Setting(
            "A scale per output of a linear layer, or one for all of it (int8).",
            flags="--per-channel/--per-tensor",
            rules=(excludes("to=int4"),),
        ),
    ] = True
    reduce_range: Annotated[
        bool | None,
        Setting(
            "Use seven bits of int8 weights, or all eight [default: seven where this processor's product of uint8 by"
            " int8 saturates].",
            flags="--reduce-range/--full-range",
            rules=(excludes("to=int4"),),
        ),
    ] = None
    block_size: Annotated[
        Annotated[int, Bounds(ge=16)],
        Setting(
            "Inputs that share a scale (int4): a power of two. Heads can be cut later where they fill blocks.",
            metavar="N",
            rules=(requires("to=int4"),),
        ),
    ] = 32
    exclude: Annotated[
        tuple[Text, ...],
        Setting("Name of a node that is not quantized; can be repeated.", metavar="NODE"),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class Benching(Timing):
    """A latency benchmark beside the original."""

    SECTION: ClassVar[str] = BENCHMARK

    cuda_graph: Annotated[bool, Setting("Capture and replay CUDA graphs, where shapes allow.")] = False
    memory: Annotated[bool, Setting("Also measure the peak of memory.", flags="--memory/--no-memory")] = True
