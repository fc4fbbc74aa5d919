"""The headline of a result: is it exact, is it good enough, is it accepted? Every report shows this one value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnxheadprune.benchmarking.gate import QUALITY, Gate
from onnxheadprune.display.spelling import many
from onnxheadprune.model.documents import Document
from onnxheadprune.model.typed_json import JsonObject, written
from onnxheadprune.settings.units import HEAD, kind_of_key
from onnxheadprune.validation.figures import Quality, qualities

State: TypeAlias = Literal["good", "open", "doubtful", "bad"]
"""The judgement of an answer; "open" is the reader's to judge."""
_ORDER: tuple[State, ...] = ("good", "open", "doubtful", "bad")
QUESTIONABLE, RUINED = 0.05, 0.25
"""Parts of the correct or agreeing outputs that are lost, from which no limit is needed to doubt a model, or to call it
ruined."""
Exact: TypeAlias = Literal["yes", "tried", "no", "not shown"]
"""Exactness of a pruned model: proven, equal on all inputs that were tried, wrong, or no input could tell."""


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
    return Headline(
        _result(exact, gates, failed, warning),
        exact,
        _good_enough(qualities(validations, quantized), gates, data or "`data`"),
    )


def _severity(answer: Answer) -> int:
    return _ORDER.index(answer.state)


def _exact(validation: Document | None, quantized: bool) -> Answer:
    if validation is None:
        return Answer("not checked", "doubtful", "nothing was compared; run onnxheadprune validate")
    file = f" of {validation['file']}" if validation.get("file") else ""
    exact: Exact = validation["exact"]
    if exact == "yes":
        before = "before it was quantized, it computed" if quantized else "it computes"
        return Answer(exact, "good", f"{before} what {_reference(validation)}")
    reason = validation["tried"]["sentence"] if exact == "tried" else validation["reason"]
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


def _good_enough(measured: Sequence[Quality], gates: Sequence[Gate], data: str) -> Answer:
    """The answer by limits on the outputs where there are any, else by what was lost."""
    judged = [gate for gate in gates if gate.name in QUALITY]
    broken = [gate.sentence for gate in judged if not gate.passed]
    figures = "; ".join(clause for item in measured for clause in item.clauses())
    if broken:
        return Answer("no", "bad", "; ".join([*broken, figures] if figures else broken))
    if not figures:
        made = "; ".join(clause for item in measured for clause in item.clauses(made=True))
        found = f"; {made}" if made else ""
        return Answer("not measured", "doubtful", f"give {data} to measure what outputs lose{found}")
    lost = max((item.lost([gate.name for gate in judged]) for item in measured), default=0.0)
    if lost >= RUINED:
        return Answer("no", "bad", figures)
    if lost >= QUESTIONABLE:
        return Answer("doubtful", "doubtful", figures)
    if judged:
        return Answer("yes", "good", "; ".join([*(gate.sentence for gate in judged), figures]))
    return Answer("yours to judge", "open", figures)
