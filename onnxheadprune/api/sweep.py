"""`sweep` as a function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from onnxheadprune.api import calls
from onnxheadprune.api.common import Shown, data_of, heard
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import SweepKeywords
from onnxheadprune.attention.main_graph_copy import first_tokens
from onnxheadprune.model.load import ModelLike, open_structure
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.training.recover import Recovering
from onnxheadprune.workflow.choice.cutting import Cutter, Trying
from onnxheadprune.workflow.curve import Curve
from onnxheadprune.workflow.executors import open_executor
from onnxheadprune.workflow.requests import budget_of, measure_of, requirements_of
from onnxheadprune.workflow.sweep import parse_sweep, sweep_ratios


@keywords_of(calls.SWEEP)
def sweep(
    model: ModelLike,
    ratios: str | Sequence[float],
    *,
    progress: Shown = None,
    **settings: Unpack[SweepKeywords],
) -> Curve:
    """Measure cuts of many sizes, each with its own selection and refit: drift, accuracy, size and measured speed.

        curve = ohp.sweep("model.onnx", "0:0.7:0.1", data="sentences.txt")
        curve = ohp.sweep("model.onnx", [0, 0.25, 0.5], data="sentences.txt", units="heads,neurons", recover="2m")

    Args:
        model: see `prune`.
        ratios: shares of all heads, as numbers or as "0:0.7:0.1"; with other `units` of the operations of all blocks.
        {settings}
        progress: see `prune`.

    Raises:
        UsageError: if the ratios or the data are wrong.
        RefusedError: if nothing can be removed.
        ProviderError: if the named provider does not run here.
    """
    given = calls.SWEEP.read(settings)
    wanted = parse_sweep(ratios)
    requirements, budget = requirements_of(given), budget_of(given.recover, given.time)
    trying = Trying(
        given.refit,
        measure_of(given.drift),
        recovering=None if budget is None else Recovering(budget, given.seed),
    )
    data, provider = data_of(model, given), resolve_provider(given.provider)
    with open_executor(given.jobs, given.dask) as executor:
        loaded = open_structure(model)
        subject = loaded if data is None else first_tokens(loaded) or loaded
        cutter = Cutter(subject, data, provider, trying, heard(progress))
        return sweep_ratios(cutter, requirements, wanted, executor, given.jobs)
