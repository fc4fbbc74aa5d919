"""The keys of a job, as types: the JSON schema and the checks are made from them, and nothing else lists keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""A number is a number and no text, and a key that is not listed is a mistake."""

PATH = Field(json_schema_extra={"format": "path"})
File: TypeAlias = Annotated[str, PATH, Field(min_length=1)]
"""A path, from the folder of the job file."""
Words: TypeAlias = Annotated[str, Field(min_length=1)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Seed: TypeAlias = Annotated[int, Field(ge=0)]
Share: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Limit: TypeAlias = Annotated[float, Field(ge=0)]
Counts: TypeAlias = Annotated[tuple[Count, ...], Field(min_length=1)]
Channels: TypeAlias = Annotated[tuple[float, ...], Field(min_length=1)]
Heads: TypeAlias = dict[str, tuple[int, ...] | Literal["*"]]


@dataclass(frozen=True)
class DataKeys:
    """Calibration data of score, prune, recover and quantize, in one of several forms."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    path: Annotated[
        Words | None,
        Field(description="An .npz file, a folder of .npz feeds, or module:function that yields feeds."),
    ] = None
    text: Annotated[
        File | None, Field(description="Text: one sample a line, or a field of .jsonl or .parquet.")
    ] = None
    text_field: Annotated[
        Words | None, Field(description="The field of .jsonl and .parquet with the text; text if not given.")
    ] = None
    target_field: Annotated[
        Words | None, Field(description="The field with what an encoder and a decoder are to give for it.")
    ] = None
    max_samples: Annotated[Count | None, Field(description="Read so many samples of the text.")] = None
    tokenizer: Annotated[
        File | None,
        Field(
            description="The tokenizer.json for the text, or its folder; if not given, the one beside the model."
        ),
    ] = None
    max_length: Annotated[
        Annotated[int, Field(ge=2)], Field(description="Tokens of a line that are used.")
    ] = 128
    images: Annotated[File | None, Field(description="A folder of pictures.")] = None
    image_size: Annotated[
        Count | tuple[Count, Count] | None,
        Field(description="What pictures are scaled to: N, or [height, width]."),
    ] = None
    image_mean: Annotated[Channels | None, Field(description="Subtracted per channel; 0.5 if not given.")] = (
        None
    )
    image_std: Annotated[Channels | None, Field(description="Divided by per channel; 0.5 if not given.")] = (
        None
    )
    random: Annotated[
        bool, Field(description="Random inputs, on which heads look different from how they are used.")
    ] = False


@dataclass(frozen=True)
class ScoreKeys:
    """What every head and neuron is worth that prune may take. Without this step, prune measures it by itself."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    method: Annotated[
        Literal["weight", "activation", "fluctuation", "reconstruction", "ablation", "fisher", "taylor"]
        | None,
        Field(description="How units are judged; reconstruction if not given, weight without data."),
    ] = None
    drift: Annotated[
        Words | None,
        Field(description="For ablation: what drift is measured in: auto, kl, cosine or module:function."),
    ] = None
    jobs: Annotated[Count, Field(description="Processes for ablation.")] = 1
    dask: Annotated[
        Words | None, Field(description="For ablation: the address of a Dask scheduler, or local.")
    ] = None


@dataclass(frozen=True)
class PruneKeys:
    """Which heads go; the result is proven exact before it is written."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    heads: Annotated[
        Words | Heads | None,
        Field(description='Heads to remove: "0:1,3 5:0-3", {0: [1, 3]}, or a JSON file.'),
    ] = None
    neurons: Annotated[
        Words | None, Field(description='Neurons of feed-forward blocks to remove: "3:0-15 4:7".')
    ] = None
    layers: Annotated[
        Words | None, Field(description='Layers and sublayers to remove as a whole: "3 5-7 attn.9 ffn.4".')
    ] = None
    exit: Annotated[
        Count | None, Field(description="Early exit to make permanent first, by its number in inspect.")
    ] = None
    ratio: Annotated[
        Share | None,
        Field(description="Share of all heads to remove; of operations, where more than heads may go."),
    ] = None
    keep: Annotated[Count | None, Field(description="Heads that every site keeps.")] = None
    target_speedup: Annotated[
        Annotated[float, Field(gt=1, lt=100)] | None,
        Field(description="The smallest cut that is this many times as fast at every size, measured here."),
    ] = None
    max_drift: Annotated[
        Positive | None, Field(description="The largest cut whose drift stays at or below this.")
    ] = None
    units: Annotated[
        tuple[Literal["heads", "neurons", "layers"], ...],
        Field(description="What may go where it is said how many.", min_length=1),
    ] = ("heads",)
    neurons_multiple_of: Annotated[
        Count, Field(description="Neurons that a feed-forward block keeps are a multiple of this.")
    ] = 8
    scores: Annotated[
        File | None, Field(description="What units are worth, in a file; in place of the step score.")
    ] = None
    protect: Annotated[Words | None, Field(description="Heads that stay, a head spec.")] = None
    floor: Annotated[Seed, Field(description="Heads that every site keeps at least.")] = 1
    multiple_of: Annotated[Count, Field(description="Heads that a site keeps are a multiple of this.")] = 1
    uniform: Annotated[bool, Field(description="Every site loses the same share of its heads.")] = False
    compensate: Annotated[
        bool | None,
        Field(
            description="Refit what is left to the original's activations; where heads are chosen on data if not given."
        ),
    ] = None
    drift: Annotated[
        Words | None, Field(description="What drift is measured in: auto, kl, cosine or module:function.")
    ] = None
    fuse: Annotated[
        Literal["auto", "onnx", "contrib", "none"],
        Field(description="Also rewrite attention into fused operators."),
    ] = "none"
    keep_cache_shape: Annotated[
        bool, Field(description="Keep the shapes of past and present inputs and outputs.")
    ] = False
    renumber_cache: Annotated[
        bool,
        Field(
            description="Drop the past and present of attention that goes as a whole, and number the others anew."
        ),
    ] = False
    allow_io_change: Annotated[
        bool, Field(description="Also narrow inputs and outputs that are no cache, where they carry heads.")
    ] = False
    accept_inconclusive: Annotated[
        bool, Field(description="Write even if the heads matter too little for a wrong cut to show.")
    ] = False
    external_data: Annotated[
        Literal["auto", "always", "never"], Field(description="Keep weights in a file beside the model.")
    ] = "auto"
    client: Annotated[
        Words | None, Field(description="What loads the folder, where the model is one: optimum, genai, ...")
    ] = None


@dataclass(frozen=True)
class RecoverKeys:
    """Training of what is left, to give what the original gives."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    budget: Annotated[Positive | Words, Field(description="Epochs, or a time like 90s or 5m.")] = 10.0
    drift: Annotated[
        Words | None, Field(description="What drift is measured in: auto, kl, cosine or module:function.")
    ] = None


@dataclass(frozen=True)
class QuantizeKeys:
    """What is left in fewer bits, by ONNX Runtime's own quantizer."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    to: Annotated[
        Literal["int8-dynamic", "int8-qdq", "int4"],
        Field(
            description="int8 weights, activations measured in every run or by ranges on data; or int4 weights."
        ),
    ]
    per_channel: Annotated[
        bool, Field(description="For int8: a scale per output of a map; else one for all of it.")
    ] = True
    reduce_range: Annotated[
        bool | None,
        Field(description="For int8: seven bits; if not given, where this processor's products saturate."),
    ] = None
    block_size: Annotated[
        Annotated[int, Field(ge=16)], Field(description="For int4: inputs that share a scale.")
    ] = 32
    exclude: Annotated[tuple[Words, ...], Field(description="Names of nodes that stay as they are.")] = ()


@dataclass(frozen=True)
class ValidateKeys:
    """What came out against the original with silenced heads, and how far it drifted."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    data: Annotated[
        Words | None,
        Field(
            description="Inputs to judge on: an .npz file ('labels' in it give accuracy), a folder of .npz feeds, or"
            " module:function."
        ),
    ] = None
    metric: Annotated[
        Words | None, Field(description="A measure of your own on the data, module:function.")
    ] = None
    drift: Annotated[
        Words | None, Field(description="What drift is measured in: auto, kl, cosine or module:function.")
    ] = None


@dataclass(frozen=True)
class BenchKeys:
    """Latency of the original and of what came out, side by side."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    batch: Annotated[Counts | None, Field(description="Batch sizes; 1 and 8 if not given.")] = None
    seq: Annotated[Counts | None, Field(description="Sequence lengths; 128, or what runs, if not given.")] = (
        None
    )
    past: Annotated[Counts | None, Field(description="Cache lengths, one new token behind each.")] = None
    dims: Annotated[
        dict[str, Count] | None, Field(description="Sizes of other open dimensions, by name.")
    ] = None
    repeats: Annotated[
        Annotated[int, Field(ge=5)] | None, Field(description="Blocks per size, in place of a time budget.")
    ] = None
    time_budget: Annotated[Positive, Field(description="Seconds per size, for all models together.")] = 10.0
    threads: Annotated[Count | None, Field(description="Threads of the CPU's kernels.")] = None
    cuda_graph: Annotated[bool, Field(description="Capture and replay CUDA graphs, where shapes allow.")] = (
        False
    )
    memory: Annotated[bool, Field(description="Also measure the peak of memory.")] = True


@dataclass(frozen=True)
class GateKeys:
    """Limits: if one is broken, the job ends with exit code 1."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    max_drift: Annotated[
        Limit | None, Field(description="Drift from the original, as validate measures it.")
    ] = None
    min_accuracy: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None,
        Field(description="Accuracy on the labels of validate.data."),
    ] = None
    max_accuracy_drop: Annotated[
        Limit | None, Field(description="How much accuracy may be lost; 0.01 is one point of a hundred.")
    ] = None
    min_metric: Annotated[float | None, Field(description="What validate.metric must give.")] = None
    max_metric: Annotated[float | None, Field(description="What validate.metric may give.")] = None
    max_metric_drop: Annotated[
        Limit | None, Field(description="How much less than with the original validate.metric may give.")
    ] = None
    min_speedup: Annotated[
        Positive | None, Field(description="How many times as fast as the original, at every size of bench.")
    ] = None
    max_file_bytes: Annotated[Count | None, Field(description="Bytes of the model's files.")] = None
    max_size_ratio: Annotated[
        Positive | None, Field(description="Bytes of the model's files over those of the original.")
    ] = None
    max_operations_ratio: Annotated[
        Positive | None, Field(description="Operations of one run over those of the original.")
    ] = None


@dataclass(frozen=True)
class JobKeys:
    """A job: score, prune, recover, quantize, validate, bench, gate. A step that is not named is left out."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    model: Annotated[File, Field(description="The exported model.")]
    output: Annotated[File, Field(description="The folder for everything that the job makes.")]
    prune: Annotated[PruneKeys, Field(description="Which heads go.")]
    version: Annotated[Literal[1], Field(description="Of this format.")] = 1
    name: Annotated[
        Words | None, Field(description="Of the job, in reports; the name of its file if not given.")
    ] = None
    provider: Annotated[
        Words, Field(description="Where models run: auto, cpu, cuda or another execution provider.")
    ] = "auto"
    seed: Annotated[Seed, Field(description="Of random inputs and of the order of the data.")] = 0
    data: Annotated[DataKeys | None, Field(description="Calibration data.")] = None
    score: Annotated[ScoreKeys | None, Field(description="First say what every head is worth.")] = None
    recover: Annotated[RecoverKeys | None, Field(description="Train what is left.")] = None
    quantize: Annotated[QuantizeKeys | None, Field(description="Quantize what is left.")] = None
    validate: Annotated[ValidateKeys | None, Field(description="Compare with the original.")] = None
    bench: Annotated[BenchKeys | None, Field(description="Measure latency.")] = None
    gate: Annotated[GateKeys | None, Field(description="Limits.")] = None
