"""The inputs that models run on, and where they run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from onnxheadprune.settings.reading import image_size, numbers
from onnxheadprune.settings.rules import Rule, excludes, requires
from onnxheadprune.settings.setting import EXECUTION, INPUTS, Bounds, Count, Natural, Setting, Text

DATA = "data text images random_data"
"""Settings of which one specifies inputs."""

_RUNS = "ratio keep target_speedup max_drift refit=True"
_UNUSED = (
    excludes("dry_run", unless=_RUNS),
    excludes("no_validate", unless=f"{_RUNS} recover fuse=auto mode=auto"),
)
"""Inputs have no effect where nothing runs."""
_MATTERS = (
    excludes("dry_run", unless="random_data recover"),
    excludes("no_validate", unless="random_data recover fuse=auto mode=auto"),
)


def _inputs(text: str, metavar: str | None, others: str, *rules: Rule) -> Setting:
    """The declaration of one kind of inputs.

    Args:
        text: about it.
        metavar: how its value is written.
        others: the kinds that exclude it.
        rules: further ones.
    """
    return Setting(text, metavar=metavar, rules=(excludes(others), *_UNUSED, *rules))


DATA_HELP = (
    "Your own inputs: an .npz file (arrays named as the inputs, first axis the samples; an array 'labels' gives"
    " accuracy), a folder of .npz files with one batch each, or module:function that yields batches."
)
RANDOM_HELP = "Calibrate on random inputs, on which heads behave differently from real ones."
Data = Annotated[Text | None, _inputs(DATA_HELP, "D", "text images random_data random")]
Provider = Annotated[
    Text,
    Setting(
        "Where to run: auto (CUDA if it works, else CPU), cpu, cuda or another execution provider.",
        metavar="P",
        section=EXECUTION,
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
Dask = Annotated[Text | None, Setting(DASK_HELP, metavar="ADDRESS", section=EXECUTION)]
SEED_HELP = "Seed for the random inputs."
Seed = Annotated[Natural, Setting(SEED_HELP, metavar="N", rules=_MATTERS, section=EXECUTION)]
Channels = Annotated[tuple[float, ...], Bounds(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where models run, and on which arrays."""

    SECTION: ClassVar[str] = INPUTS

    data: Data = None
    provider: Provider = "auto"
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Text and images, from which inputs are made."""

    SECTION: ClassVar[str] = INPUTS

    text: Annotated[
        Path | None,
        _inputs(
            "Calibration text: one sample a line, or a field of .jsonl or .parquet.",
            "FILE",
            "images random_data random",
        ),
    ] = None
    text_field: Annotated[
        Text | None,
        Setting(
            "The field of .jsonl and .parquet with the text [default: text].",
            metavar="NAME",
            rules=(requires("text"),),
        ),
    ] = None
    target_field: Annotated[
        Text | None,
        Setting(
            "The field with the expected output of an encoder and a decoder [default: the text itself].",
            metavar="NAME",
            rules=(requires("text"),),
        ),
    ] = None
    max_samples: Annotated[
        Count | None, Setting("Read the first N samples of the text.", metavar="N", rules=(requires("text"),))
    ] = None
    tokenizer: Annotated[
        Path | None,
        Setting(
            "The tokenizer.json for the text, or its folder [default: the one beside the model].",
            metavar="FILE",
            rules=(requires("text"),),
        ),
    ] = None
    max_length: Annotated[
        Annotated[int, Bounds(ge=2)],
        Setting("Tokens of a line of text that are used.", metavar="N", rules=(requires("text"),)),
    ] = 128
    images: Annotated[
        Path | None, _inputs("Calibration images, in any subfolders.", "DIR", "random_data random")
    ] = None
    image_size: Annotated[
        tuple[Count, Count] | Count | None,
        Setting(
            "The size that images are scaled to: N, or height and width.",
            metavar="N|HxW",
            parse=image_size,
            rules=(requires("images"),),
        ),
    ] = None
    image_mean: Annotated[
        Channels | None,
        Setting(
            "Subtracted per channel [default: 0.5].",
            metavar="M,M,M",
            parse=numbers,
            rules=(requires("images"),),
        ),
    ] = None
    image_std: Annotated[
        Channels | None,
        Setting(
            "Divided by per channel [default: 0.5].",
            metavar="S,S,S",
            parse=numbers,
            rules=(requires("images"),),
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Inputs(Samples):
    """All inputs but arrays."""

    SECTION: ClassVar[str] = INPUTS

    random_data: Annotated[bool, Setting(RANDOM_HELP, rules=_UNUSED)] = False
