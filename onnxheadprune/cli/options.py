"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

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


def fuse_option(function: Function) -> Function:
    """`--fuse`."""
    # The list is spelled out: importing it would load onnx for every --help.
    return click.option(
        "--fuse",
        type=click.Choice(["auto", "onnx", "contrib", "none"]),
        default="none",
        show_default=True,
        help="Rewrite attention into fused operators: ONNX Runtime's own (contrib), the standard Attention (onnx),"
        " or what is measured fastest here (auto). Without --heads this alone is done.",
    )(function)


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
