"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import click

Function = TypeVar("Function", bound=Callable[..., object])
# As `FuseMode` and `ExternalData` have them: importing those would load onnx for every --help.
Fusing: TypeAlias = Literal["auto", "onnx", "contrib", "none"]
Beside: TypeAlias = Literal["auto", "always", "never"]

FILE = click.Path(path_type=Path, readable=False)
"""Existence is checked where the file is read, with a better sentence than click's."""


class Output(click.Path):
    """A file that a command makes. Every option that names one has this type: `claiming` asks for it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; what was written is kept in the context, since a path forgets a trailing slash."""
        if os.fspath(value) == "-":
            self.fail("- would be standard output; files are only written whole, so name one", param, ctx)
        if ctx is not None and param is not None:
            ctx.meta[f"onnxheadprune.spelled.{param.name}"] = os.fspath(value)
        return super().convert(value, param, ctx)


OUTPUT = Output(path_type=Path, readable=False)


def stacked(function: Function, options: Sequence[Callable[[Function], Function]]) -> Function:
    """The function with several options, which `--help` shows in their order."""
    for option in reversed(options):
        function = option(function)
    return function


def json_option(function: Function) -> Function:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(
        function
    )


def heads_option(function: Function) -> Function:
    """`--heads`."""
    return click.option(
        "--heads",
        metavar="H",
        help='Heads to remove: "0:1,3 5:0-3 *:7" (site index, name or *, then heads and ranges), or a JSON file'
        ' {"0": [1, 3]}.',
    )(function)


UNITS = ("heads", "neurons", "layers")
"""Options that name sites by their numbers."""


def units_options(function: Function) -> Function:
    """`--heads`, `--neurons`, `--layers` and `--exit`."""
    options = (
        heads_option,
        click.option(
            "--neurons",
            metavar="N",
            help='Neurons to remove from feed-forward blocks: "0:0-511 ffn.4:7 *:3", or a JSON file like that of'
            " --heads.",
        ),
        click.option(
            "--layers",
            metavar="L",
            help='Layers and sublayers to remove: "3 5-7 attn.9 ffn.4". Of each its bias stays, where it has one.',
        ),
        click.option(
            "--exit",
            type=click.IntRange(min=1),
            metavar="N",
            help="Make early exit N permanent first (inspect lists them): all behind it goes, and its condition.",
        ),
    )
    return stacked(function, options)


def fuse_option(function: Function) -> Function:
    """`--fuse`."""
    return click.option(
        "--fuse",
        type=click.Choice(get_args(Fusing)),
        default="none",
        show_default=True,
        help="Also rewrite attention into fused operators: ONNX Runtime's own (contrib), the standard Attention"
        " (onnx), or what is measured fastest here (auto).",
    )(function)


@dataclass(frozen=True)
class Running:
    """Where models run: `--data`, `--provider`, `--seed`."""

    data: str | None
    provider: str
    seed: int


def run_options(function: Function) -> Function:
    """What decides how models are run: `--data`, `--provider`, `--seed`."""
    options = (
        click.option(
            "--data",
            metavar="D",
            help="Your own inputs: an .npz file (arrays named as the inputs, first axis the samples; an array"
            " 'labels' gives accuracy), a folder of .npz feeds, or module:function that yields feeds.",
        ),
        click.option(
            "--provider",
            default="auto",
            show_default=True,
            metavar="P",
            help="Where to run: auto (CUDA if it really works, else CPU), cpu, cuda or another provider.",
        ),
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random inputs."
        ),
    )
    return stacked(function, options)


@dataclass(frozen=True)
class Shaping:
    """What a cut may do to inputs and outputs: `--keep-cache-shape`, `--renumber-cache`, `--allow-io-change`."""

    keep_cache_shape: bool
    renumber_cache: bool
    allow_io_change: bool


def shaping_options(function: Function) -> Function:
    """The options of `Shaping`."""
    options = (
        click.option(
            "--keep-cache-shape", is_flag=True, help="Keep the shapes of past and present inputs and outputs."
        ),
        click.option(
            "--renumber-cache",
            is_flag=True,
            help="Drop the past and present of attention that goes as a whole, and number those of other layers anew.",
        ),
        click.option(
            "--allow-io-change",
            is_flag=True,
            help="Also narrow inputs and outputs that are no cache, where they carry heads.",
        ),
    )
    return stacked(function, options)


@dataclass(frozen=True)
class Checking:
    """What must be shown before a model is written: `--no-validate`, `--accept-inconclusive`."""

    no_validate: bool
    accept_inconclusive: bool


def checking_options(function: Function) -> Function:
    """The options of `Checking`."""
    options = (
        click.option(
            "--no-validate",
            is_flag=True,
            help="Do not compare with the masked reference (noted in the metadata).",
        ),
        click.option(
            "--accept-inconclusive",
            is_flag=True,
            help="Write even if the heads matter too little for a wrong cut to show.",
        ),
    )
    return stacked(function, options)


def external_data_option(function: Function) -> Function:
    """`--external-data`."""
    return click.option(
        "--external-data",
        type=click.Choice(get_args(Beside)),
        default="auto",
        show_default=True,
        help="Keep weights in a file beside OUT: as MODEL does, always or never.",
    )(function)


def dry_run_option(function: Function) -> Function:
    """`--dry-run`."""
    return click.option("--dry-run", is_flag=True, help="Show what would change; write no model.")(function)


def report_option(function: Function) -> Function:
    """`--report`."""
    return click.option(
        "--report", type=OUTPUT, metavar="FILE.html", help="What was done and proven, as one HTML page."
    )(function)
