"""Options that say how a model is quantized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, get_args

import click

from onnxheadprune.cli.options import stacked

if TYPE_CHECKING:
    from onnxheadprune.runtime.quantizing import Quantizing

Function = TypeVar("Function", bound=Callable[..., object])
# As `runtime.quantizing.To` has it: importing that would load onnx for every --help.
Target: TypeAlias = Literal["int8-dynamic", "int8-qdq", "int4"]


@dataclass(frozen=True)
class Rounding:
    """How weights are quantized: `--to`, `--per-channel`, `--reduce-range`, `--block-size`, `--exclude`."""

    to: Target
    per_channel: bool
    reduced: bool | None
    block_size: int
    exclude: tuple[str, ...]


def quantizing_options(function: Function) -> Function:
    """The options of `Rounding`."""
    options = (
        click.option(
            "--to",
            type=click.Choice(get_args(Target)),
            required=True,
            help="int8 weights, activations measured in every run (int8-dynamic) or by ranges found on --data"
            " (int8-qdq); or weights in blocks of four bits (int4, needs the package onnx-ir).",
        ),
        click.option(
            "--per-channel/--per-tensor",
            default=True,
            show_default=True,
            help="A scale per output of a map, or one for all of it (int8).",
        ),
        click.option(
            "--reduce-range/--full-range",
            "reduced",
            default=None,
            help="Use seven bits of int8 weights, or all eight [default: seven where this processor's product of"
            " uint8 by int8 saturates].",
        ),
        click.option(
            "--block-size",
            type=click.IntRange(min=16),
            default=32,
            show_default=True,
            metavar="N",
            help="Inputs that share a scale (int4): a power of two. Heads can be cut later where they fill blocks.",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="NODE",
            help="Name of a node that stays as it is; can be repeated.",
        ),
    )
    return stacked(function, options)


def read_quantizing(rounding: Rounding) -> Quantizing:
    """How a model is quantized, as the options say it."""
    from onnxheadprune.runtime.quantizing import Quantizing

    return Quantizing(
        rounding.to, rounding.per_channel, rounding.reduced, rounding.block_size, rounding.exclude
    )
