"""Types of the keywords of the Python API, made from the declarations of settings by `python tools/keywords.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Required, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any

    from onnxheadprune.attention.specs import HeadSpec
    from onnxheadprune.choosing.scoring.scores import HeadScores
    from onnxheadprune.data.calibration import Calibration
    from onnxheadprune.runtime import Provider

Method = Literal["weight", "reap", "reconstruction", "ablation", "taylor", "random"]
Runtime = Literal[
    "fastembed", "genai", "openvino", "optimum", "ort", "sentence-transformers", "tei", "transformers.js"
]


class _Selecting(TypedDict, total=False):
    """The selection of units and the adjustment of the remaining weights."""

    scores: str | os.PathLike[str] | HeadScores | None
    method: Method | None
    protect: str | None
    units: Collection[Literal["heads", "neurons", "experts", "layers"]] | str
    min_heads: int
    multiple_of: Mapping[Literal["heads", "neurons", "experts"], int] | str
    uniform: bool
    refit: bool | None
    drift: str | Callable[..., float] | None


class _Samples(TypedDict, total=False):
    """Preprocessing of text and images."""

    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Collection[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None


class _Running(TypedDict, total=False):
    """Inputs, and where models run."""

    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    provider: str | Provider
    custom_ops: str | os.PathLike[str] | None
    seed: int


class _Checking(TypedDict, total=False):
    """Validation that is required before a model is written."""

    validate: bool
    accept_inconclusive: bool


class _Pruning(TypedDict, total=False):
    """One cut, wherever its result goes: of a model, of those of a folder, of a job or of another tool."""

    recover: str | float | None
    time: str | None


class _Timing(TypedDict, total=False):
    """Sizes, duration and conditions of a latency benchmark."""

    batch: int | Collection[int] | str | None
    seq: int | Collection[int] | str | None
    past: int | Collection[int] | str | None
    dims: Mapping[str, int] | str
    repeats: int | None
    time_budget: float
    threads: int | None


class PruneKeywords(_Selecting, _Samples, _Running, _Checking, _Pruning, _Timing, total=False):
    """Keywords of `prune`."""

    heads: HeadSpec | None
    neurons: HeadSpec | None
    experts: HeadSpec | None
    layers: str | None
    exit: int | None
    vocab: str | os.PathLike[str] | Sequence[int] | None
    vocab_size: int | None
    token_ids: str | None
    token_logits: str | None
    ratio: float | str | None
    keep: int | None
    target_size: float | str | None
    target_speedup: float | str | None
    max_drift: float | None
    resume: bool
    fuse: Literal["auto", "onnx", "contrib", "none"]
    cache: Literal["narrow", "keep", "renumber"]
    allow_io_change: bool
    follow_links: bool
    in_place: bool
    backup: str | os.PathLike[str] | None
    external_data: Literal["auto", "always", "never"]
    data_name: str | None
    force: bool


class PruneFolderKeywords(_Selecting, _Samples, _Running, _Checking, _Pruning, total=False):
    """Keywords of `prune_folder`."""

    heads: HeadSpec | None
    neurons: HeadSpec | None
    experts: HeadSpec | None
    layers: str | None
    vocab: str | os.PathLike[str] | Sequence[int] | None
    vocab_size: int | None
    token_ids: str | None
    token_logits: str | None
    ratio: float | str | None
    keep: int | None
    target_size: float | str | None
    target_speedup: float | str | None
    max_drift: float | None
    fuse: Literal["auto", "onnx", "contrib", "none"]
    cache: Literal["narrow", "keep", "renumber"]
    allow_io_change: bool
    runtime: Runtime | None
    follow_links: bool
    data_name: str | None
    exclude: Collection[str]


class RecoverKeywords(_Samples, _Running, _Checking, total=False):
    """Keywords of `recover`."""

    budget: str | float
    time: str | None
    drift: str | Callable[..., float] | None
    resume: bool
    external_data: Literal["auto", "always", "never"]
    force: bool


class QuantizeKeywords(_Samples, _Running, total=False):
    """Keywords of `quantize`."""

    drift: str | Callable[..., float] | None
    to: Required[Literal["int8-dynamic", "int8-qdq", "int4"]]
    per_channel: bool
    reduce_range: bool | None
    block_size: int
    exclude: Collection[str]
    external_data: Literal["auto", "always", "never"]
    force: bool


class ScoreKeywords(_Samples, _Running, total=False):
    """Keywords of `score`."""

    method: Method | None
    drift: str | Callable[..., float] | None
    units: Collection[Literal["heads", "neurons", "experts", "layers"]] | str
    follow_links: bool
    force: bool


class SweepKeywords(_Selecting, _Samples, _Running, total=False):
    """Keywords of `sweep`."""

    recover: str | float | None
    time: str | None
    jobs: int
    dask: str | None


class SelectHeadsKeywords(_Samples, total=False):
    """Keywords of `select_heads`."""

    ratio: float | str | None
    keep: int | None
    scores: str | os.PathLike[str] | HeadScores | None
    method: Method | None
    protect: str | None
    min_heads: int
    multiple_of: Mapping[Literal["heads", "neurons", "experts"], int] | str
    uniform: bool
    drift: str | Callable[..., float] | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    provider: str | Provider
    seed: int


class PlanPruningKeywords(TypedDict, total=False):
    """Keywords of `plan_pruning`."""

    heads: HeadSpec | None
    neurons: HeadSpec | None
    experts: HeadSpec | None
    layers: str | None
    exit: int | None
    cache: Literal["narrow", "keep", "renumber"]
    allow_io_change: bool


class ValidateKeywords(_Samples, _Running, _Timing, total=False):
    """Keywords of `validate`."""

    heads: str | None
    max_drift: float | None
    drift: str | Callable[..., float] | None
    strict: bool
    metric: str | Callable[..., Any] | None
    min_speedup: float | str | None
    follow_links: bool


class BenchKeywords(_Timing, total=False):
    """Keywords of `bench`."""

    cuda_graph: bool
    memory: bool
    min_speedup: float | str | None
    provider: str | Provider
    custom_ops: str | os.PathLike[str] | None
    seed: int
    follow_links: bool


class InspectKeywords(TypedDict, total=False):
    """Keywords of `inspect`."""

    follow_links: bool
