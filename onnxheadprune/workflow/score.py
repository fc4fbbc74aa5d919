"""`score` end to end: the method, where it runs, and the sites of an interrupted run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from onnxheadprune.choosing.scoring.executors import open_executor
from onnxheadprune.choosing.scoring.score import default_method, score
from onnxheadprune.choosing.scoring.scores import HeadScores, partial_path
from onnxheadprune.data.drift import Measure
from onnxheadprune.model.load import ModelLike
from onnxheadprune.runtime.feeds.samples import DataSource
from onnxheadprune.runtime.progress import Progress
from onnxheadprune.runtime.providers import AUTO, resolve_provider
from onnxheadprune.settings.cutting import Scoring


def scored(
    model: ModelLike,
    given: Scoring,
    units: Collection[str],
    data: DataSource | None,
    provider: str,
    output: Path | None,
    progress: Progress,
    effect: Measure | None,
) -> HeadScores:
    """Scores by settings; an interrupted run with the same output is resumed."""
    method = given.method or default_method(units, measured=data is not None)
    # Weights alone need no provider, but one that is asked for by name must be usable.
    where = provider if provider.lower() == AUTO else resolve_provider(provider)
    partial = partial_path(output, method)
    with open_executor(given.jobs, given.dask) as executor:
        return score(
            model,
            method=method,
            data=data,
            provider=where,
            effect=effect,
            executor=executor,
            partial=partial,
            progress=progress,
            units=frozenset(units),
        )
