"""Files of a command: what it reads exists, and each file that it would make is free, and none that it reads.

What a command reads and makes follows from its parameters: options of the type `Output` name files that it makes,
those of the type `FILE` and `--data` name what it reads, whatever else is text may name a file too, and its arguments
are models, with the weights beside them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from onnxheadprune.cli.values import SPELLED, Value, inputs_of, outputs_of
from onnxheadprune.settings.inputs import RANDOM

if TYPE_CHECKING:
    from onnxheadprune.model.storage.claims import Making, Reading


@contextlib.contextmanager
def guarded(context: click.Context) -> Iterator[None]:
    """Check the inputs, then the outputs, of a command; what it writes within is the output of one call."""
    from onnxheadprune.model.storage.claims import check_makings, replacing

    with contextlib.ExitStack() as stack:
        stack.enter_context(replacing(bool(context.params.get("force"))))
        _require_inputs(context)
        if context.params.get("custom_ops") is not None:
            from onnxheadprune.runtime.custom_ops import custom_operators

            stack.enter_context(custom_operators(context.params["custom_ops"]))
        if outputs_of(context.command):
            check_makings(list(_makings(context)), lambda: _readings(context))
        yield


def _require_inputs(context: click.Context) -> None:
    """Check that everything named exists, and then its kind. What is said of options for that kind comes after."""
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
    folder = context.params.get("folder")
    if isinstance(folder, Path) and folder.is_file():
        raise click.UsageError(f"{folder} is one model, and {context.info_name} takes a folder", context)
    for name in ("model", "pruned") if _kind(context.params) == "model" else ():
        if isinstance(path := context.params.get(name), Path):
            from onnxheadprune.model.documents import require_model_file

            require_model_file(path)


def _makings(context: click.Context) -> Iterator[Making]:
    from onnxheadprune.model.storage.claims import Making

    values = context.params
    model, pattern = values.get("model"), values.get("data_name")
    kind = _kind(values)
    if values.get("in_place") and kind == "new folder":
        yield Making("the backup", values["backup"], kind=kind, copy_of=model)
    elif values.get("in_place") and model is not None:
        from onnxheadprune.model.save import Outputs

        spelled = "", context.meta.get(f"{SPELLED}backup", "")
        yield from replace(
            Outputs.of(model, values["backup"], pattern), original="MODEL", spelled=spelled
        ).makings()
    for option in outputs_of(context.command):
        path, typed = values.get(option.name or ""), context.meta.get(f"{SPELLED}{option.name}", "")
        if path is None or option.name == "backup":
            continue
        if option.name == "output" and values.get("in_place"):
            continue
        if option.name != "output":
            yield Making(max(option.opts, key=len), path, typed, suffixes=_suffixes(option))
        elif kind == "model":
            from onnxheadprune.model.save import Outputs

            beside = tuple(_beside(path, values))
            yield from replace(Outputs.of(path, None, pattern, beside), spelled=(typed, "")).makings()
        else:
            suffixes = _suffixes(option) if kind == "file" else ()
            yield Making("the output", path, typed, kind, copy_of=model, suffixes=suffixes)
            yield from _beside(path, values)


def _suffixes(option: click.Parameter) -> tuple[str, ...]:
    assert isinstance(option.type, Value)
    creates = option.type.item.setting.creates
    return () if creates == "*" else tuple(creates.split())


def _kind(values: Mapping[str, object]) -> Literal["folder", "new folder", "model", "file"]:
    """Return what the output is: many models make a folder."""
    model = values.get("model")
    if isinstance(model, Path) and model.is_dir() and "runtime" in values:
        return "new folder"
    if "folder" in values:
        return "folder"
    return "model" if "external_data" in values or "when" in values else "file"


def _beside(output: Path, values: Mapping[str, object]) -> Iterator[Making]:
    """Files that come with an output without being named; they replace nothing but their like."""
    from onnxheadprune.model.storage.claims import Making

    if not output.name:
        return
    if "ratios" in values:
        from onnxheadprune.reporting.pictures import JSON_MARK, PICTURE_MARK, curve_files

        document, picture = curve_files(output)
        if output == document:
            yield Making("the picture beside the output,", picture, mark=PICTURE_MARK.encode())
        else:
            yield Making("the JSON beside the output,", document, mark=JSON_MARK.encode())
    if (values.get("recover") or values.get("budget")) and _kind(values) == "model":
        from onnxheadprune.training.checkpoint import beside, making_of

        yield making_of(beside(output))


def _readings(context: click.Context) -> Iterator[Reading]:
    from onnxheadprune.model.storage.claims import Reading, named_files
    from onnxheadprune.model.storage.stage import locations

    for option in context.command.params:
        if option in outputs_of(context.command) or option.name == "data_name":
            continue
        is_model = isinstance(option, click.Argument)
        what = option.human_readable_name if is_model else max(option.opts, key=len)
        paths = context.params.get(option.name or "")
        for value in paths if isinstance(paths, (tuple, list)) else [paths]:
            yield from named_files(what, value)
            if is_model and isinstance(value, Path):
                with contextlib.suppress(OSError):
                    for location in locations(value):
                        yield Reading(f"the weights of {what},", value.parent / location)
