"""Which heads go, where a request does not name them, and new numbers for what is left."""

from __future__ import annotations

from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds import DataSource
from onnxheadprune.runtime.progress import Progress
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.selection.choose import choose
from onnxheadprune.selection.completing import named
from onnxheadprune.selection.cutting import Cutter, Trying
from onnxheadprune.selection.recovery import Recovering, beside
from onnxheadprune.selection.wishes import Chosen
from onnxheadprune.workflow.requests import Request

SAMPLES_TO_VALIDATE = 128
"""Samples of calibration data that a compensated model is proven on, beside the random feeds."""


def chosen_for(
    model: LoadedModel, request: Request, provider: Provider | None, progress: Progress
) -> tuple[Chosen | None, DataSource | None]:
    """The heads of a wish and refitted weights, where a request asks for either.

    Args:
        model: the original.
        request: what is asked for.
        provider: where to run; None resolves the one that is asked for when it is needed.
        progress: told what is being done.

    Returns:
        What was chosen, None for plain named heads; and the data to validate on, None without any.

    Raises:
        UsageError: if heads are named and wished for.
    """
    choice, data = request.choice, request.run.data
    if choice.decided is not None:
        return choice.decided, data
    if choice.heads and choice.wish is not None:
        raise UsageError("name the heads, or say how many are to go, not both")
    if choice.wish is None and not choice.compensate and choice.recover is None:
        return None, data
    where = provider or resolve_provider(request.run.provider)
    cutter = Cutter(model, data, where, _trying(request), progress)
    chosen = named(cutter, choice.heads or {}) if choice.wish is None else choose(cutter, choice.wish)
    if cutter.held is None:
        return chosen, None
    # Exactness shows on few samples; more would only take time.
    return chosen, cutter.held.subset(SAMPLES_TO_VALIDATE)


def _trying(request: Request) -> Trying:
    """How cuts are made on the way to a choice: as the one that is written."""
    choice = request.choice
    return Trying(
        compensate=choice.compensate,
        effect=choice.effect,
        contract=request.contract,
        fuse=request.fuse,
        recovering=_recovering(request),
        given=choice.given,
    )


def _recovering(request: Request) -> Recovering | None:
    """How a training is made; its state is kept where it is the only one."""
    choice, output = request.choice, request.writing.output
    if choice.recover is None:
        return None
    trains_many = choice.wish is not None and choice.wish.max_drift is not None
    state = None if output is None or trains_many else beside(output)
    return Recovering(choice.recover, request.run.seed, state, choice.resume)
