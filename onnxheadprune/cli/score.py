"""`onnxheadprune score`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxheadprune.cli.belonging import SCORE, LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.calibrating import Samples, calibration_options, dask_option, read_data
from onnxheadprune.cli.choosing import (
    Method,
    check_folder,
    drift_option,
    method_option,
    read_effect,
    read_units,
    score_path,
)
from onnxheadprune.cli.deploying import follow_links_option, is_folder, subject_of, with_own_tokenizer
from onnxheadprune.cli.folders import leader_of
from onnxheadprune.cli.options import FILE, OUTPUT, Running, json_option, run_options
from onnxheadprune.cli.presenting import Presentation


@dataclass(frozen=True)
class ScoreOptions:
    """What `score` is given."""

    model: Path
    method: Method | None
    units: str
    output: Path | None
    heatmap: Path | None
    running: Running
    samples: Samples
    drift: str | None
    jobs: int
    dask: str | None
    follow_links: bool
    as_json: bool


@click.command(cls=LawfulCommand, laws=SCORE, short_help="Say what every head is worth.")
@click.argument("model", type=FILE)
@method_option("How heads are judged [default: reconstruction, without data weight].")
@click.option(
    "--units",
    default="heads",
    show_default=True,
    metavar="KINDS",
    help='What is judged: "heads", "neurons" of feed-forward blocks, or both with a comma between.',
)
@click.option(
    "-o",
    "--output",
    type=OUTPUT,
    metavar="FILE",
    help="Where to write the scores: FILE.csv as a table, else JSON.",
)
@click.option(
    "--heatmap", type=OUTPUT, metavar="FILE", help="A picture of sites and heads: FILE.png or FILE.svg."
)
@run_options
@calibration_options
@drift_option
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes for ablation."
)
@dask_option
@follow_links_option
@json_option
@bundled(ScoreOptions)
def score(given: ScoreOptions) -> int:
    """Score the heads of MODEL, and its neurons: on your data, or by the weights alone.

    Of a folder as exporters write it the most precise file is scored.

    An ablation that was interrupted goes on where it stopped when it is started again with the same -o.
    """
    from onnxheadprune.cli.report.console import err
    from onnxheadprune.cli.report.figure import check_picture, save_figure
    from onnxheadprune.cli.report.heatmap import heat_rows
    from onnxheadprune.cli.report.progress import progress_on
    from onnxheadprune.cli.report.scores import score_rows
    from onnxheadprune.runtime.providers import AUTO, resolve_provider
    from onnxheadprune.selection.kinds import HEADS
    from onnxheadprune.selection.scoring import score_heads, write_scores
    from onnxheadprune.selection.scoring.executors import open_executor

    output, heatmap, provider = given.output, given.heatmap, given.running.provider
    if heatmap is not None:
        check_picture(heatmap)
    if output is not None:
        check_folder(output)
    effect, units = read_effect(given.drift), read_units(given.units)
    if heatmap is not None and HEADS not in units:
        raise click.UsageError("--heatmap is a picture of heads; score them too", click.get_current_context())
    samples = with_own_tokenizer(given.model, given.samples)
    links = given.follow_links
    subject = (
        leader_of(given.model, links)
        if is_folder(given.model)
        else subject_of(given.model, follow_links=links)
    )
    data = read_data(subject, samples, given.running)
    method: Method = given.method or ("weight" if data is None else "reconstruction")
    partial = None if output is None or method != "ablation" else score_path(output)
    with open_executor(given.jobs, given.dask) as executor, progress_on(err()) as progress:
        scores = score_heads(
            subject,
            method=method,
            data=data,
            # Weights alone need no provider, but one that is asked for by name must be usable.
            provider=provider if provider.lower() == AUTO else resolve_provider(provider),
            effect=effect,
            executor=executor,
            partial=partial,
            progress=progress,
            units=units,
        )
    presentation = Presentation()
    with presentation.prepared():
        if output is not None:
            write_scores(scores, output)
        if heatmap is not None:
            from onnxheadprune.cli.report.pictures.results import plot_heads

            save_figure(plot_heads(scores), heatmap)
    if given.as_json:
        presentation.json(scores.to_dict())
    else:
        heat = heat_rows(scores.by_site()) if scores.heads else ()
        presentation.rows(*score_rows(scores), *heat)
    return presentation.deliver()
