"""The headline of a result: is it exact, is it good enough, is it accepted? Every report shows this one value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from onnxheadprune.benchmarking.gate import QUALITY, Gate
from onnxheadprune.errors import named_setting, spelled
from onnxheadprune.model.documents import Document
from onnxheadprune.model.spelling import many
from onnxheadprune.model.typed_json import JsonObject, written
from onnxheadprune.settings.units import HEAD, kind_of_key
from onnxheadprune.validation.figures import clauses

State: TypeAlias = Literal["good", "open", "doubtful", "bad"]
"""The judgement of an answer; "open" is the reader's to judge."""
_ORDER: tuple[State, ...] = ("good", "open", "doubtful", "bad")
QUESTIONABLE, RUINED = 0.05, 0.25
"""Parts of the correct or agreeing outputs that are lost, from which no limit is needed to doubt a model, or to call it
ruined."""
Exact: TypeAlias = Literal["yes", "tried", "no", "not shown"]
"""Exactness of a pruned model: proven, equal on all inputs that were tried, wrong, or no input could tell."""


def exactness(verdict: str, *, identical: bool) -> Exact:
    """Return whether a model is exact, by the verdict and by whether its graph is the planned one."""
    if verdict == "failed":
        return "no"
    if verdict == "inconclusive":
        return "not shown"
    return "yes" if identical else "tried"


@dataclass(frozen=True)
class Answer(JsonObject):
    """The answer to one question."""

    answer: str  # a word or two
    state: State  # how to take it
    reason: str  # what it rests on

    @property
    def sentence(self) -> str:
        """The answer and its reason."""
        return f"{self.answer}: {self.reason}"


@dataclass(frozen=True)
class Headline(JsonObject):
    """Three questions and their answers."""

    result: Answer  # "accepted", "rejected" or "no limits given"
    exact: Answer  # whether the model was proven to compute what the masked original computes
    good_enough: Answer  # what is known of its accuracy and drift, judged by limits where there are any

    @property
    @written()
    def state(self) -> State:
        """The worst state of the three, which sets the color."""
        return max((answer for _, answer in self.answers), key=_severity).state

    @property
    def answers(self) -> tuple[tuple[str, Answer], ...]:
        """The questions as people read them, in the order in which they are shown."""
        return (
            ("Result", self.result),
            ("Is it exact?", self.exact),
            ("Is it good enough?", self.good_enough),
        )


def headline_of(
    validations: Sequence[Document | None],
    gates: Sequence[Gate] = (),
    *,
    failed: str | None = None,
    data: str | None = None,
    quantized: bool = False,
    warning: str | None = None,
) -> Headline:
    """Return the headline of a result.

    Args:
        validations: `Validation.to_dict()` of every model of the result, with "file" in a folder and "deployed" where a
            model was quantized after its proof; None where the proof was skipped.
        data: the key that names data to measure on, where that is not the caller's --data.
        warning: what was asked for and did not happen; None if all did.
    """
    exact = max((_exact(item, quantized) for item in validations or [None]), key=_severity)
    measured = [item for item in validations if item is not None]
    if quantized:
        measured = [item["deployed"] | {"file": item.get("file")} for item in measured if "deployed" in item]
    return Headline(
        _result(exact, gates, failed, warning),
        exact,
        _good_enough(measured, gates, data or spelled(named_setting("data"))),
    )


def _severity(answer: Answer) -> int:
    return _ORDER.index(answer.state)


def _exact(validation: Document | None, quantized: bool) -> Answer:
    if validation is None:
        return Answer("not checked", "doubtful", "nothing was compared; run onnxheadprune validate")
    file = _of(validation)
    graph = validation.get("structure")
    exact = exactness(validation["verdict"], identical=graph is None or graph["identical"])
    if exact == "yes":
        before = "before it was quantized, it computed" if quantized else "it computes"
        return Answer(exact, "good", f"{before} what {_reference(validation)}")
    # Verdicts of earlier versions say what they rest on in their reason alone.
    tried = validation.get("tried") if exact == "tried" else None
    reason = validation["reason"] if tried is None else tried["sentence"]
    return Answer(exact, "bad" if exact == "no" else "doubtful", f"{reason}{file}")


def _reference(validation: Document) -> str:
    """The reference that an exact model equals."""
    removed, refitted = _removed(validation["units"]), len(validation["refitted"])
    parts = [f"its exit {', '.join(map(str, validation['exits']))} forced"] if validation["exits"] else []
    parts += ["its token ids translated"] if validation.get("tokens") else []
    parts += [f"the removed {removed} silenced"] if removed else []
    parts += [f"the {many(refitted, 'adjusted tensor')} in place"] if refitted else []
    return f"the original computes{' with ' if parts else ''}{' and '.join(parts)}"


def _removed(units: Mapping[str, Sequence[int]]) -> str:
    """The kinds of units that are gone: "heads and neurons"."""
    kinds = dict.fromkeys((kind_of_key(key) or HEAD).units for key, gone in units.items() if gone)
    return " and ".join(kinds)


def _result(exact: Answer, gates: Sequence[Gate], failed: str | None, warning: str | None) -> Answer:
    broken = [gate for gate in gates if not gate.passed]
    if failed is not None:
        return Answer("rejected", "bad", failed)
    if exact.state == "bad":
        return Answer("rejected", "bad", "it is not exact")
    if broken:
        count = f"{len(broken)} of {len(gates)} limits {'is' if len(broken) == 1 else 'are'} broken"
        return Answer("rejected", "bad", "the limit is broken" if len(gates) == 1 else count)
    found = Answer("no limits given", "open", "limits are for validate and jobs")
    if gates:
        kept = "the limit is" if len(gates) == 1 else f"all {len(gates)} limits are"
        found = Answer("accepted", "good", f"{kept} kept")
    return found if warning is None else Answer(found.answer, "doubtful", f"{warning}; {found.reason}")


def _good_enough(measured: Sequence[Document], gates: Sequence[Gate], data: str) -> Answer:
    """The answer by limits on the outputs where there are any, else by what was lost."""
    judged = [gate for gate in gates if gate.name in QUALITY]
    broken = [gate.sentence for gate in judged if not gate.passed]
    figures = "; ".join(clause for item in measured for clause in clauses(item))
    if broken:
        return Answer("no", "bad", "; ".join([*broken, figures] if figures else broken))
    if not figures:
        return Answer(
            "not measured", "doubtful", f"give {data} to measure what outputs lose{_at_random(measured)}"
        )
    lost = max((_lost(item, judged) for item in measured), default=0.0)
    if lost >= RUINED:
        return Answer("no", "bad", figures)
    if lost >= QUESTIONABLE:
        return Answer("doubtful", "doubtful", figures)
    if judged:
        return Answer("yes", "good", "; ".join([*(gate.sentence for gate in judged), figures]))
    return Answer("yours to judge", "open", figures)


def _on_data(measured: Document) -> bool:
    """Return whether the figures are of the user's data; those of a quantized model always are."""
    drift = measured["drift"]
    if measured["accuracy"] or measured["metric"] or _plain(drift):
        return True
    return drift is not None and bool(drift["source"] == "data")


def _plain(drift: Any) -> bool:
    """Return whether a drift is a number alone, as that of a quantized model is."""
    return isinstance(drift, float)


def _at_random(measured: Sequence[Document]) -> str:
    """The answer from random inputs, which is better than none."""
    figures = [clause for item in measured for clause in clauses(item, made=True)]
    return f"; {'; '.join(figures)}" if figures else ""


def _lost(measured: Document, judged: Sequence[Gate]) -> float:
    """The part of the correct or agreeing outputs that is lost, as far as no limit allows it.

    Accuracy counts before drift: outputs may move and still be right. Of a Kullback-Leibler divergence d, 1 - exp(-d)
    bounds the probability that is moved (Bretagnolle and Huber, 1979).
    """
    allowed = {gate.name.rpartition("_drop")[0] or gate.name for gate in judged}
    found, drift = measured["accuracy"], measured["drift"]
    if allowed & {"min_accuracy", "max_accuracy", "min_metric", "max_metric"}:
        return 0.0
    if found:
        return float(1 - found["pruned"] / found["original"]) if found["original"] else 0.0
    if drift is None or "max_drift" in allowed or not _on_data(measured):
        return 0.0
    if not _plain(drift) and drift["top1_agreement"] is not None:
        return float(1 - drift["top1_agreement"])
    unit, value = (measured["drift_unit"], drift) if _plain(drift) else (drift["measure"], drift["value"])
    if unit == "kl":
        return 1 - math.exp(-value)
    return float(value) if unit == "1 - cosine" else 0.0


def _of(measured: Document) -> str:
    return f" of {measured['file']}" if measured.get("file") else ""
