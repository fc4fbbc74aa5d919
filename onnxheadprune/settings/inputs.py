"""The inputs that models run on, and where they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from onnxheadprune.settings.setting import (
    EXECUTION,
    FILES,
    INPUTS,
    Bounds,
    Count,
    Natural,
    Setting,
    Text,
    excludes,
    requires,
)

DataFormat: TypeAlias = Literal["npz", "text", "jsonl", "parquet", "images"]
TEXT_FORMATS: tuple[DataFormat, ...] = ("text", "jsonl", "parquet")
RANDOM = "random"
"""In place of data: random inputs."""
TEXTS = "text_field target_field max_samples tokenizer max_length"
"""Settings of `Samples` for text; the others are for images."""

_RUNS = "ratio keep target_size target_speedup max_drift refit=True vocab_size"
_UNUSED = (
    excludes("dry_run", unless=_RUNS),
    excludes("validate=False", unless=f"{_RUNS} recover time fuse=auto"),
)
"""Inputs have no effect where nothing runs."""
_MATTERS = (
    excludes("dry_run", unless="data=random recover"),
    excludes("validate=False", unless="data=random recover time fuse=auto"),
)
_OF_DATA = (requires("data"),)

DATA_HELP = (
    "Your own inputs: an .npz file (arrays named as the inputs, samples along the batch axis; an array 'labels' gives"
    " accuracy), a folder of .npz files with one batch each, text (one sample a line, JSON lines or Parquet), a folder"
    " of images, module:function that yields batches, or random."
)
Data = Annotated[
    Text | None,
    Setting(
        DATA_HELP,
        metavar="D",
        rules=_UNUSED,
        section=INPUTS,
        also="calibration-data calib-data calibration dataset text images random-data input-data",
        offers=FILES,
    ),
]
Format = Annotated[
    DataFormat | None,
    Setting(
        "What {data} is, where its content does not tell.", metavar="KIND", rules=_OF_DATA, section=INPUTS
    ),
]
Provider = Annotated[
    Text,
    Setting(
        "Where to run: auto (CUDA if it works, else CPU), cpu, cuda or another execution provider.",
        metavar="P",
        section=EXECUTION,
        also="device execution-provider ep",
        offers="auto cpu cuda",
    ),
]
CustomOps = Annotated[
    Path | None,
    Setting(
        "A library of custom operators, which every session loads: its code runs with your rights.",
        metavar="FILE",
        section=EXECUTION,
        also="custom-op-library custom-operators",
        offers=FILES,
    ),
]
DASK_HELP = (
    "Work on the Dask cluster whose scheduler has this address; local starts one here, of {jobs} processes."
)
Jobs = Annotated[
    Count,
    Setting(
        "Processes that work at once.",
        metavar="N",
        rules=(excludes("dask", unless="dask=local"),),
        section=EXECUTION,
    ),
]
Dask = Annotated[Text | None, Setting(DASK_HELP, metavar="ADDRESS", section=EXECUTION, offers="local")]
SEED_HELP = "Seed for the random inputs."
Seed = Annotated[Natural, Setting(SEED_HELP, metavar="N", rules=_MATTERS, section=EXECUTION)]
Channels = Annotated[tuple[float, ...], Bounds(min_length=1)]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a list of numbers like 0.485,0.456,0.406") from None


def _size(text: str) -> tuple[int, int]:
    """Height and width from "224" or "224x192"."""
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"{text!r} is not a size like 224 or 224x192")
    return int(parts[0]), int(parts[-1])


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Preprocessing of text and images."""

    SECTION: ClassVar[str] = INPUTS

    text_field: Annotated[
        Text | None,
        Setting(
            "The field of JSON lines and Parquet with the text [default: text].",
            metavar="NAME",
            rules=_OF_DATA,
        ),
    ] = None
    target_field: Annotated[
        Text | None,
        Setting(
            "The field with the expected output of an encoder and a decoder [default: the text itself].",
            metavar="NAME",
            rules=_OF_DATA,
        ),
    ] = None
    max_samples: Annotated[
        Count | None, Setting("Read the first N samples of the text.", metavar="N", rules=_OF_DATA)
    ] = None
    tokenizer: Annotated[
        Path | None,
        Setting(
            "The tokenizer.json for the text, or its folder [default: the one beside the model].",
            metavar="FILE",
            rules=_OF_DATA,
        ),
    ] = None
    max_length: Annotated[
        Annotated[int, Bounds(ge=2)],
        Setting("Tokens of a line of text that are used.", metavar="N", rules=_OF_DATA),
    ] = 128
    image_size: Annotated[
        tuple[Count, Count] | Count | None,
        Setting(
            "The size that images are scaled to: N, or height and width.",
            metavar="N|HxW",
            parse=_size,
            rules=_OF_DATA,
        ),
    ] = None
    image_mean: Annotated[
        Channels | None,
        Setting(
            "Subtracted from images per channel [default: from preprocessor_config.json beside the model, else 0.5].",
            metavar="M,M,M",
            parse=_numbers,
            rules=_OF_DATA,
        ),
    ] = None
    image_std: Annotated[
        Channels | None,
        Setting(
            "Images are divided by this per channel [default: as {image_mean}].",
            metavar="S,S,S",
            parse=_numbers,
            rules=_OF_DATA,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Running(Samples):
    """Inputs, and where models run.

    In Python `data` may also be arrays in memory: a mapping like an `.npz` file, or an iterable of batches.
    """

    data: Data = None
    data_format: Format = None
    provider: Provider = "auto"
    custom_ops: CustomOps = None
    seed: Seed = 0
