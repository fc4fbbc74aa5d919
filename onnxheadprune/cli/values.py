"""The values of options and arguments, read by the declarations of their settings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

import click
from click.shell_completion import CompletionItem

from onnxheadprune.errors import UsageError
from onnxheadprune.settings.inputs import RANDOM
from onnxheadprune.settings.setting import FILES, Declared, WithUnit
from onnxheadprune.settings.words import flag_of

_FOLDER = tuple(f"{separator}{dot}" for separator in (os.sep, os.altsep) if separator for dot in ("", "."))
"""Ends of a path that can only be a folder."""
if TYPE_CHECKING:
    Converting = click.ParamType[Any]
else:
    # Before version 8.4 click's class is not generic.
    Converting = click.ParamType


class Value(Converting):
    """The value of a setting, or each item of one that is a list."""

    def __init__(self, item: Declared) -> None:
        is_list = get_origin(item.kind) is tuple and item.setting.parse is None
        self.item = (item.items or item) if is_list else item
        self.name = {int: "whole number", float: "number", Path: "path"}.get(self.item.kind, "text")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value of a text; a default is one already."""
        if not isinstance(value, str):
            return value
        shown = flag_of(self.item)
        if self.item.setting.creates and value == "-":
            raise click.UsageError(
                f"{shown}: - would be standard output; files are only written whole, so name one", ctx
            )
        try:
            read = self.item.of_text(value)
        except UsageError as error:
            raise click.UsageError(shown + str(error).removeprefix(self.item.name), ctx) from None
        if self.item.setting.creates not in ("", "*"):
            suffixes = self.item.setting.creates.split()
            if read.suffix.lower() not in suffixes and not value.endswith(_FOLDER):
                raise click.UsageError(f"{shown} {value} must end in {' or '.join(suffixes)}", ctx)
        # A `Path` drops what says that a folder is meant.
        return value if self.item.setting.creates and value.endswith(_FOLDER) else read

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """The words that it may be."""
        listed = "|".join(map(str, self.item.words))
        return f"[{listed}]" if listed and self.item.setting.parse is None else None

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str | None:
        """The words to choose from, where it must be one of them."""
        return f"Choose from: {', '.join(self.item.words)}" if self.item.words else None

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """The words that begin with what was typed, or files."""
        offers = self.item.setting.offers.split()
        if self.item.kind is Path or FILES in offers:
            return [CompletionItem(incomplete, type="file")]
        mark = "=" if get_origin(self.item.kind) is Mapping else ""
        words = [*(f"{word}{mark}" for word in self.item.words), *offers]
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


class SettingOption(click.Option):
    """An option whose help has the bounds of its value."""

    def get_help_extra(self, ctx: click.Context) -> Any:
        """The default and the bounds, for the brackets behind the help."""
        extra = super().get_help_extra(ctx)
        item = self.type.item if isinstance(self.type, Value) else None
        if item is not None and item.kind in (int, float) and not isinstance(item.bounds, WithUnit):
            extra |= {"range": item.bounds.interval} if item.bounds.interval else {}
        return extra


def inputs_of(command: click.Command) -> list[click.Parameter]:
    """The parameters that name files that a command reads, whose existence is checked before anything else."""
    return [
        item
        for item in command.params
        if isinstance(item.type, Value) and item.type.item.kind is Path and not item.type.item.setting.creates
    ]


@contextlib.contextmanager
def prepared(context: click.Context) -> Iterator[None]:
    """Check that all is there that a command names, and let what runs within load and replace what it may."""
    from onnxheadprune.model.storage.claims import replacing
    from onnxheadprune.runtime.custom_ops import custom_operators

    with replacing(bool(context.params.get("force"))):
        _require_inputs(context)
        with custom_operators(context.params.get("custom_ops")):
            yield


def _require_inputs(context: click.Context) -> None:
    """Check that everything named exists: what is said of options for some kind of it comes after."""
    inputs = inputs_of(context.command)
    for option in context.command.params:
        paths = context.params.get(option.name or "")
        for value in paths if isinstance(paths, tuple) else [paths]:
            if option.name == "data" and isinstance(value, str) and value != RANDOM:
                from onnxheadprune.runtime.feeds.data import require_data

                require_data(value)
            elif option in inputs and value is not None:
                from onnxheadprune.model.documents import require_model, require_there

                if option.name in ("model", "pruned"):
                    require_model(value)
                else:
                    is_argument = isinstance(option, click.Argument)
                    require_there(value, "" if is_argument else f"{max(option.opts, key=len)} ")
