"""`score` as a function, and the selection alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Unpack

from onnxheadprune.api import calls
from onnxheadprune.api.common import Output, Shown, data_of, heard, subject_of
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import ScoreKeywords, SelectHeadsKeywords
from onnxheadprune.attention.main_graph_copy import main_graph_copy
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.choosing.scoring import score as choosing
from onnxheadprune.choosing.scoring.scores import HeadScores, store_scores
from onnxheadprune.choosing.select import search_space
from onnxheadprune.choosing.space import SearchSpace, Selection
from onnxheadprune.data.calibration import calibration_data
from onnxheadprune.data.drift import Evidence
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import ModelLike, open_structure
from onnxheadprune.model.storage.claims import Making, check_makings, replacing
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.workflow.requests import measure_of, requirements_of


@keywords_of(calls.SCORE)
def score(
    model: ModelLike, output: Output = None, *, progress: Shown = None, **settings: Unpack[ScoreKeywords]
) -> HeadScores:
    """Score heads, neurons and experts by importance: on data, or by the weights alone. Larger is more important.

        scores = ohp.score("model.onnx", data="sentences.txt")
        scores = ohp.score("model.onnx", "scores.csv", method="ablation", data="sentences.txt")

    Args:
        model: see `prune`.
        output: where to write the scores: a name that ends with .csv as a table, else JSON; None writes nothing.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: if there is no data where the method needs it, the data does not fit, or units have no scores.
        RefusedError: if the model has no sites, or a site that this method cannot see into.
    """
    given = calls.SCORE.read(settings, output=output)
    if output is not None:
        check_makings([Making("the output", Path(output))], list)
    subject = subject_of(model, given.follow_links)
    data = data_of(subject, given)
    scores = choosing.score(
        subject,
        method=given.method,
        data=data,
        provider=given.provider,
        effect=measure_of(given.drift),
        progress=heard(progress),
        units=given.units,
    )
    if output is not None:
        store_scores(scores, output)
    return scores


def write_scores(scores: HeadScores, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a table where the file is called `.csv`, else JSON; an older file is kept until all is written.

    A table has no information on the data.

    Args:
        force: replace a file that this tool has not written, too.

    Raises:
        UsageError: if the file cannot be written, or there is one that this tool has not written.
    """
    with replacing(force):
        check_makings([Making("the scores", Path(path))], list)
    store_scores(scores, path)


@keywords_of(calls.SELECT)
def select_heads(
    model: ModelLike, *, progress: Shown = None, **settings: Unpack[SelectHeadsKeywords]
) -> Selection:
    """Return the heads whose removal should cost least.

        heads = ohp.select_heads("model.onnx", ratio=0.25, data="sentences.txt").heads
        heads = ohp.select_heads("model.onnx", keep=6, scores="scores.csv").heads

    Args:
        model: see `prune`.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: unless exactly one target is given, or if the data or the scores do not fit.
        RefusedError: if the target cannot be met.
    """
    given = calls.SELECT.read(settings)
    if (given.ratio is None) == (given.keep is None):
        raise UsageError("give a ratio, or the number of heads that every site keeps")
    loaded, data = open_structure(model), data_of(model, given)
    if data is not None:
        loaded = main_graph_copy(loaded) or loaded
    analysis, evidence = analysis_of(loaded), None
    if data is not None:
        provider = resolve_provider(given.provider)
        evidence = Evidence(calibration_data(data, analysis.view), provider, measure_of(given.drift))

    def asked(space: SearchSpace) -> Selection:
        return space.ratio(given.ratio) if given.ratio is not None else space.keeping(given.keep or 0)

    return asked(search_space(analysis, requirements_of(given), evidence, heard(progress), asked))
