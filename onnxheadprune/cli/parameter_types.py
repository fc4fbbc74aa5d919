"""Types of parameters of click: files that are read or made, and values that settings read from text."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from onnxheadprune.settings.setting import FILES, Shares, WithUnit

FILE = click.Path(path_type=Path, readable=False)
"""Existence is checked where the file is read, with a better sentence than click's."""


SPELLED = "onnxheadprune.spelled."
"""Precedes the name of an option in the context: how its path was written."""


class Output(click.Path):
    """A file that a command makes; `claiming` checks all of them."""

    def __init__(self, suffixes: str) -> None:
        super().__init__(path_type=Path, readable=False)
        self.suffixes = () if suffixes == "*" else tuple(suffixes.split())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; what was written is kept in the context, since a path forgets a trailing slash."""
        if os.fspath(value) == "-":
            self.fail("- would be standard output; files are only written whole, so name one", param, ctx)
        if ctx is not None and param is not None:
            ctx.meta[f"{SPELLED}{param.name}"] = os.fspath(value)
        return super().convert(value, param, ctx)


if TYPE_CHECKING:
    Converting = click.ParamType[Any]
else:
    # Before version 8.4 click's class is not generic.
    Converting = click.ParamType


class Parsed(Converting):
    """The value that a setting reads from text."""

    name = "text"

    def __init__(self, parse: Callable[[str], object], words: Collection[str] = ()) -> None:
        self.parse, self.words = parse, words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value; a default is one already."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """The completions of the last item of a list, without the items before it."""
        before, comma, last = incomplete.rpartition(",")
        others = (word for word in self.words if word not in before.split(","))
        return [CompletionItem(f"{before}{comma}{word}") for word in others if word.startswith(last)]


class Offering(click.types.StringParamType):
    """Text for which shells offer words, or files."""

    def __init__(self, words: Collection[str]) -> None:
        self.words = words

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """The words that begin with what was typed, or files."""
        if FILES in self.words:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


class Number(Parsed):
    """A number that may have a unit behind it."""

    def __init__(self, bounds: WithUnit) -> None:
        super().__init__(bounds.read)
        self.bounds = bounds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, within its bounds."""
        number = super().convert(value, param, ctx)
        if not self.bounds.admit(number):
            is_share = isinstance(self.bounds, Shares) and 1 < number < 100 and "%" not in value
            percent = f"; write {value}% for percent" if is_share else ""
            self.fail(f"{value} is not {self.bounds}{percent}", param, ctx)
        return number
