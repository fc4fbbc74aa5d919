"""`score` from end to end: check, read, measure."""

from __future__ import annotations

from collections.abc import Iterable

from onnxheadprune.choosing.scoring.score import score
from onnxheadprune.choosing.scoring.scores import HeadScores
from onnxheadprune.data.sources import read_data
from onnxheadprune.model.load import ModelLike, open_structure
from onnxheadprune.model.save import Outputs
from onnxheadprune.model.storage.claims import Making
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.settings.calls import ScoreCall
from onnxheadprune.workflow.requests import loaded, readings_of


def run_score(
    model: ModelLike, call: ScoreCall, progress: Progress = silent, *, beside: Iterable[Making] = ()
) -> HeadScores:
    """Score the units of a model as a call asks for.

    Args:
        beside: the scores and reports, which the caller writes.
    """
    subject = open_structure(model, follow_links=call.follow_links)
    Outputs(None, beside=tuple(beside)).claim(subject, others=readings_of(call))
    call = loaded(call)
    return score(subject, call, read_data(subject, call), progress)
