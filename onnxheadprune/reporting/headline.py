"""The three answers of a result, in front of everything else, and the limits of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.reporting.layout import row
from onnxheadprune.runtime import Provider
from onnxheadprune.validation.headline import Headline

STYLES = {"good": "bold green", "open": "bold cyan", "doubtful": "bold yellow", "bad": "bold red"}
_LABELS = ("result", "exact", "good enough")


def provider_rows(provider: Provider) -> Iterator[RenderableType]:
    """Yield what keeps a GPU from being used, in front of everything that ran without it."""
    if provider.warning is not None:
        yield row("warning", provider.warning, "bold yellow")


def headline_rows(headline: Headline) -> Iterator[RenderableType]:
    """One line per question; the result has the color of the worst answer."""
    states = headline.state, headline.exact.state, headline.good_enough.state
    for label, state, (_, answer) in zip(_LABELS, states, headline.answers, strict=True):
        yield row(label, answer.sentence, STYLES[state])


def gate_rows(gates: Sequence[Gate]) -> Iterator[RenderableType]:
    """One line per limit, red where it was broken."""
    for gate in gates:
        kept = "kept" if gate.passed else "broken"
        yield row("limit", f"{kept}: {gate.sentence}", "green" if gate.passed else "red")
