"""The verdict: what the runs showed, against what is allowed, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.model.tensors import FLOATS
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds.generate import FeedMaker
from onnxheadprune.runtime.tolerances import POWER, Tolerance
from onnxheadprune.validation.result import Likeness, Tried, Verdict, shows
from onnxheadprune.validation.runs import Findings


@dataclass(frozen=True)
class VerdictWords:
    """The words of a verdict."""

    reference: str  # what the pruned model is compared with
    silencing: str  # what is done to see a mistake
    mistake: str  # what would go unseen if that moved nothing


def words_for(
    removed: str, fused: bool, refitted: bool, exits: Sequence[int] = (), trimmed: bool = False
) -> VerdictWords:
    """The words of the verdict on a model."""
    if exits or trimmed:
        forced = f"its decision forced to exit {', '.join(map(str, exits))}" if exits else ""
        parts = [forced, "its token ids translated" if trimmed else "", "its units masked" if removed else ""]
        done = " or ".join(word for word in (removed, "fused sites" if fused else "") if word)
        other = "deciding otherwise" if exits else "reading other tokens"
        silencing = f"silencing the {done} or {other}" if done else other
        mistake = "a wrong exit" if exits else "a wrong token"
        return VerdictWords(f"the original with {' and '.join(filter(None, parts))}", silencing, mistake)
    if not removed:
        return VerdictWords("the original", "silencing the fused sites", "a wrong fusion")
    if refitted:
        return VerdictWords("the refitted and masked original", f"silencing the {removed}", "a wrong cut")
    silenced = f"the {removed} or the fused sites" if fused else f"the {removed}"
    return VerdictWords("the masked reference", f"silencing {silenced}", "a wrong cut")


def judge(
    problems: Sequence[str],
    found: Findings,
    tolerance: Tolerance,
    provider: Provider,
    words: VerdictWords,
    view: GraphView,
) -> tuple[Verdict, str]:
    """The verdict and its reason."""
    if problems:
        return "failed", problems[0]
    if found.obstacle:
        return "inconclusive", found.obstacle
    usual = [case for case in found.cases if case.is_exact]
    if not usual:
        reason = found.notes[0] if found.notes else "nothing could be run"
        return "inconclusive", f"{reason}; give real ones with `data`"
    finite = [case for case in usual if case.finite]
    if not finite and (spoilt := _spoilt(view)) is not None:
        return "inconclusive", (
            f"the outputs hold NaN or infinite values, and the stored tensor {spoilt.name} holds NaN itself, which"
            " no input mends: equality says nothing"
        )
    if not finite:
        return (
            "inconclusive",
            (
                "the outputs hold NaN or infinite values, so equality says nothing; give real inputs with"
                " `data`"
            ),
        )
    power, error = max(case.power for case in finite), max(case.max_rel_error for case in usual)
    allowed = max(case.tolerance for case in usual)
    unseen = _unseen(power, error, tolerance)
    if unseen:
        return "inconclusive", (
            f"{words.silencing} {unseen}: {words.mistake} would not show; give real inputs with `data`"
        )
    how = "to the last bit"
    if error:
        rounding = ", a tenth of the effect, with quantized activations" if allowed > tolerance.exact else ""
        how = f"to {error:.1e} of the output's scale ({allowed:.0e} allowed{rounding})"
    return "passed", (
        f"equals {words.reference} {how} on {provider.label}; {words.silencing} moves it by {power:.1e}"
    )


def _unseen(power: float, error: float, tolerance: Tolerance) -> str:
    """Return why a wrong cut would not have shown; nothing where it would have."""
    if not power:
        return "does not move the outputs at all"
    moves = f"moves the outputs by only {power:.1e} of their scale"
    if not shows(power, 0.0, tolerance.epsilon):
        return f"{moves}, less than {POWER:.0f}x the {tolerance.epsilon:.1e} that rounding is"
    if not shows(power, error, tolerance.epsilon):
        return f"{moves}, less than {POWER:.0f}x the difference that is left, {error:.1e}"
    return ""


def _spoilt(view: GraphView) -> Value | None:
    """A stored tensor that somebody reads and that holds NaN, None without: no input mends that."""
    for value in view.values():
        if (
            value.is_read
            and value.holds_tensor
            and value.elem_type in FLOATS
            and np.isnan(value.numbers()).any()
        ):
            return value
    return None


def tried_on(alike: Likeness, found: Findings, view: GraphView) -> Tried:
    """The evidence for a verdict where the graph is not the planned one."""
    what = "the graph is not the planned one"
    if alike.declared == alike.count:
        what = "the declarations are not the planned ones"
    return Tried(what, found.compared.feeds, _sizes(found, view))


SOUND = 3
"""Axes that floats have at most whose open sizes are lengths; those of images are sides."""


def _sizes(found: Findings, view: GraphView) -> dict[str, tuple[int, int]]:
    """The smallest and largest sizes that were compared, by their names; sizes that the model fixes are left out."""
    maker = FeedMaker(view)
    roles = maker.symbols
    known = {"lengths": (*roles.length, *roles.extent), "batches": roles.batch, "pasts": roles.past}
    called = {symbol: name for name, symbols in known.items() for symbol in symbols}
    sizes: dict[str, set[int]] = {}
    axes = [(item, axis, dim) for item in maker.inputs for axis, dim in enumerate(item.dims)]
    for item, axis, dim in axes:
        if isinstance(dim, int) or dim.text not in called or axis in item.widths:
            continue
        name = "sides" if dim.text in roles.extent and len(item.dims) > SOUND else called[dim.text]
        sizes.setdefault(name, set()).update(found.compared.sizes.get((item.name, axis), ()))
    order = ("lengths", "sides", "batches", "pasts")
    return {name: (min(sizes[name]), max(sizes[name])) for name in order if sizes.get(name)}
