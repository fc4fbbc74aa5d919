"""`onnxheadprune score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data, subject_of
from onnxheadprune.cli.presenting import Presentation
from onnxheadprune.settings.calls import ScoredUnits
from onnxheadprune.settings.cutting import NO_DATA, Scoring
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.setting import OUTPUT, Setting, requires
from onnxheadprune.settings.writing import FollowLinks, Json, Model

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel


@command(rules={"data": NO_DATA, "seed": requires("data=random")})
def score(
    model: Model,
    scoring: Scoring,
    running: Running,
    units: ScoredUnits = ("heads",),
    output: Annotated[
        Path | None,
        Setting(
            "Where to write the scores: FILE.csv as a table, FILE.json with what they were measured on.",
            metavar="FILE",
            flags="-o --output",
            creates=".json .csv",
            section=OUTPUT,
        ),
    ] = None,
    heatmap: Annotated[
        Path | None,
        Setting("Plot of sites and heads: FILE.png or FILE.svg.", metavar="FILE", creates=".png .svg .pdf"),
    ] = None,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> int:
    """Score the heads of MODEL, its neurons and experts: on your data, or by the weights alone.

    Of a folder as exporters write it the most precise file is scored.
    """
    from onnxheadprune.choosing.scoring.score import score as score_units
    from onnxheadprune.choosing.scoring.scores import store_scores
    from onnxheadprune.data.sources import with_own_tokenizer
    from onnxheadprune.reporting.console import err, rows_of
    from onnxheadprune.reporting.pictures import check_picture, save_figure
    from onnxheadprune.reporting.progress import progress_on
    from onnxheadprune.settings.units import DEFAULT_UNITS
    from onnxheadprune.workflow.requests import measure_of

    if heatmap is not None:
        check_picture(heatmap)
    if heatmap is not None and not set(units) >= DEFAULT_UNITS:
        raise click.UsageError("--heatmap is a plot of heads; score them too", click.get_current_context())
    effect = measure_of(scoring.drift)
    samples = with_own_tokenizer(model, running)
    subject = (
        _leader_of(model, follow_links) if model.is_dir() else subject_of(model, follow_links=follow_links)
    )
    data = read_data(subject, samples)
    with progress_on(err()) as progress:
        scores = score_units(
            subject,
            method=scoring.method,
            data=data,
            provider=running.provider,
            effect=effect,
            progress=progress,
            units=units,
        )
    presentation = Presentation()
    with presentation.prepared():
        if output is not None:
            store_scores(scores, output)
        if heatmap is not None:
            from onnxheadprune.reporting.pictures.heads import plot_heads

            save_figure(plot_heads(scores), heatmap)
    if as_json:
        presentation.json(scores.to_dict())
    else:
        presentation.rows(*rows_of(scores.facts()))
    return presentation.deliver()


def _leader_of(folder: Path, follow_links: bool) -> LoadedModel:
    """The file of a folder that heads are chosen on."""
    from onnxheadprune.deploying.folders.opening import opened
    from onnxheadprune.errors import UsageError

    _, match = opened(folder, follow_links=follow_links)
    if len(match.networks) > 1:
        names = ", ".join(network.leader.name for network in match.networks)
        raise UsageError(f"{folder} holds {len(match.networks)} networks; name the file of one: {names}")
    return match.networks[0].leader.loaded
