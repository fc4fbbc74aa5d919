"""Types of the keywords of the Python API, made from the declarations of settings by `python tools/keywords.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Required, TypedDict

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any

    from onnxheadprune.attention.head_specs import HeadSpec
    from onnxheadprune.choosing.scoring.scores import HeadScores
    from onnxheadprune.data.calibration import Calibration
    from onnxheadprune.runtime import Provider

Method = Literal[
    "weight",
    "reap",
    "frequency",
    "activation",
    "fluctuation",
    "reconstruction",
    "ablation",
    "fisher",
    "taylor",
    "random",
]
Runtime = Literal[
    "fastembed", "genai", "openvino", "optimum", "ort", "sentence-transformers", "tei", "transformers.js"
]


class PruneKeywords(TypedDict, total=False):
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
    target_speedup: float | None
    max_drift: float | None
    scores: str | os.PathLike[str] | HeadScores | None
    method: Method | None
    protect: str | None
    units: Collection[Literal["heads", "neurons", "experts", "layers"]] | str
    min_heads: int
    multiple_of: Mapping[Literal["heads", "neurons", "experts"], int] | str
    uniform: bool
    refit: bool | None
    drift: str | Callable[..., float] | None
    recover: str | float | None
    time: str | None
    resume: bool
    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    fuse: Literal["auto", "onnx", "contrib", "none"]
    cache: Literal["narrow", "keep", "renumber"]
    allow_io_change: bool
    batch: int | Collection[int] | str | None
    seq: int | Collection[int] | str | None
    past: int | Collection[int] | str | None
    dims: Mapping[str, int] | str
    repeats: int | None
    time_budget: float
    threads: int | None
    provider: str | Provider
    seed: int
    follow_links: bool
    in_place: bool
    backup: str | os.PathLike[str] | None
    external_data: Literal["auto", "always", "never"]
    validate: bool
    accept_inconclusive: bool
    data_name: str | None


class PruneFolderKeywords(TypedDict, total=False):
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
    target_speedup: float | None
    max_drift: float | None
    scores: str | os.PathLike[str] | HeadScores | None
    method: Method | None
    protect: str | None
    units: Collection[Literal["heads", "neurons", "experts", "layers"]] | str
    min_heads: int
    multiple_of: Mapping[Literal["heads", "neurons", "experts"], int] | str
    uniform: bool
    refit: bool | None
    drift: str | Callable[..., float] | None
    recover: str | float | None
    time: str | None
    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    fuse: Literal["auto", "onnx", "contrib", "none"]
    cache: Literal["narrow", "keep", "renumber"]
    allow_io_change: bool
    runtime: Runtime | None
    per_layer_config: bool
    provider: str | Provider
    seed: int
    follow_links: bool
    validate: bool
    accept_inconclusive: bool
    data_name: str | None


class FuseKeywords(TypedDict, total=False):
    """Keywords of `fuse`."""

    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    mode: Literal["contrib", "onnx", "auto"]
    provider: str | Provider
    seed: int
    in_place: bool
    backup: str | os.PathLike[str] | None
    external_data: Literal["auto", "always", "never"]
    validate: bool
    accept_inconclusive: bool


class RecoverKeywords(TypedDict, total=False):
    """Keywords of `recover`."""

    budget: str | float
    time: str | None
    drift: str | Callable[..., float] | None
    resume: bool
    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    provider: str | Provider
    seed: int
    validate: bool
    accept_inconclusive: bool
    external_data: Literal["auto", "always", "never"]


class QuantizeKeywords(TypedDict, total=False):
    """Keywords of `quantize`."""

    drift: str | Callable[..., float] | None
    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    to: Required[Literal["int8-dynamic", "int8-qdq", "int4"]]
    per_channel: bool
    reduce_range: bool | None
    block_size: int
    exclude: Collection[str]
    provider: str | Provider
    seed: int
    external_data: Literal["auto", "always", "never"]


class CombineKeywords(TypedDict, total=False):
    """Keywords of `combine`."""

    drift: str | Callable[..., float] | None
    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    to: Required[Literal["int8-dynamic", "int8-qdq", "int4"]]
    per_channel: bool
    reduce_range: bool | None
    block_size: int
    exclude: Collection[str]
    batch: int | Collection[int] | str | None
    seq: int | Collection[int] | str | None
    past: int | Collection[int] | str | None
    dims: Mapping[str, int] | str
    repeats: int | None
    time_budget: float
    threads: int | None
    metric: str | Callable[..., Any] | None
    provider: str | Provider
    seed: int
    external_data: Literal["auto", "always", "never"]


class ScoreKeywords(TypedDict, total=False):
    """Keywords of `score`."""

    method: Method | None
    drift: str | Callable[..., float] | None
    units: Collection[Literal["heads", "neurons", "experts", "layers"]] | str
    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    jobs: int
    dask: str | None
    provider: str | Provider
    seed: int
    follow_links: bool


class SweepKeywords(TypedDict, total=False):
    """Keywords of `sweep`."""

    scores: str | os.PathLike[str] | HeadScores | None
    method: Method | None
    protect: str | None
    units: Collection[Literal["heads", "neurons", "experts", "layers"]] | str
    min_heads: int
    multiple_of: Mapping[Literal["heads", "neurons", "experts"], int] | str
    uniform: bool
    refit: bool | None
    drift: str | Callable[..., float] | None
    recover: str | float | None
    time: str | None
    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    provider: str | Provider
    seed: int
    jobs: int
    dask: str | None


class SelectHeadsKeywords(TypedDict, total=False):
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
    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
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


class ValidateKeywords(TypedDict, total=False):
    """Keywords of `validate`."""

    heads: HeadSpec | None
    drift: str | Callable[..., float] | None
    strict: bool
    text_field: str | None
    target_field: str | None
    max_samples: int | None
    tokenizer: str | os.PathLike[str] | None
    max_length: int
    image_size: int | Sequence[int] | str | None
    image_mean: float | Collection[float] | str | None
    image_std: float | Collection[float] | str | None
    data: os.PathLike[str] | str | Mapping[str, Any] | Iterable[Mapping[str, Any]] | Calibration | None
    data_format: Literal["npz", "text", "jsonl", "parquet", "images"] | None
    metric: str | Callable[..., Any] | None
    provider: str | Provider
    seed: int
    follow_links: bool


class BenchKeywords(TypedDict, total=False):
    """Keywords of `bench`."""

    batch: int | Collection[int] | str | None
    seq: int | Collection[int] | str | None
    past: int | Collection[int] | str | None
    dims: Mapping[str, int] | str
    repeats: int | None
    time_budget: float
    threads: int | None
    cuda_graph: bool
    memory: bool
    provider: str | Provider
    seed: int
    follow_links: bool


class InspectKeywords(TypedDict, total=False):
    """Keywords of `inspect`."""

    follow_links: bool
