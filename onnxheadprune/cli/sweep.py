"""`prune --sweep`: the curve in place of one pruned model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxheadprune.cli.calibrating import read_data
from onnxheadprune.cli.choosing import WAYS, read_effect, read_wish
from onnxheadprune.cli.outcome import emit_json


def run_sweep(
    spec: str,
    model: Path | None,
    output: Path | None,
    heads: str | None,
    settings: dict[str, Any],
    *,
    jobs: int,
    dask: str | None,
    as_json: bool,
) -> int:
    """Measures the curve and writes it: JSON, or a picture with the JSON beside it.

    Raises:
        click.UsageError: if options contradict each other.
    """
    context = click.get_current_context()
    if model is None or heads is not None or any(settings[name] is not None for name in WAYS):
        raise click.UsageError("--sweep takes one MODEL and chooses heads itself, by ratios", context)
    from onnxheadprune.cli.report.console import err, out
    from onnxheadprune.cli.report.curve import curve_files, curve_rows, save_curve
    from onnxheadprune.cli.report.figure import check_picture
    from onnxheadprune.cli.report.progress import progress_on
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.runtime.providers import resolve_provider
    from onnxheadprune.selection.chooser import Chooser
    from onnxheadprune.selection.scoring.executors import open_executor
    from onnxheadprune.workflow.sweep import parse_sweep, sweep_ratios

    ratios = parse_sweep(spec)
    document, picture = (None, None) if output is None else curve_files(output)
    if picture is not None:
        check_picture(picture)
    settings["ratio"] = 0.5
    wish, effect = read_wish(settings), read_effect(settings)
    assert wish is not None
    data = read_data(model, settings)
    provider = resolve_provider(settings["provider"])
    with open_executor(jobs, dask) as executor, progress_on(err()) as progress:
        chooser = Chooser(
            open_structure(model),
            data,
            provider,
            compensate=settings["compensate"],
            effect=effect,
            progress=progress,
        )
        curve = sweep_ratios(chooser, wish, ratios, executor)
    if document is not None and picture is not None:
        curve.write(document)
        save_curve(curve, picture)
    if as_json:
        emit_json(curve.to_dict())
    else:
        out().print(*curve_rows(curve), sep="\n")
    return 0
