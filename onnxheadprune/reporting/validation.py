"""The report of `validate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.model.spelling import accuracy as spelled
from onnxheadprune.model.spelling import many, measure, share
from onnxheadprune.reporting.console import bullet, heading, row, table
from onnxheadprune.runtime import Provider
from onnxheadprune.validation.graph_comparison import Likeness
from onnxheadprune.validation.headline import Headline
from onnxheadprune.validation.result import Accuracy, Drift, Validation

STYLES = {"good": "bold green", "open": "bold cyan", "doubtful": "bold yellow", "bad": "bold red"}
_LABELS = ("result", "exact", "good enough")


def provider_rows(provider: Provider) -> Iterator[RenderableType]:
    """Yield what keeps a GPU from being used, before everything that ran without it."""
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


_STYLES = {"yes": "bold green", "no": "bold red"}


def validation_report(validation: Validation, headline: Headline) -> Iterator[RenderableType]:
    """The headline, the cases that were run, then the verdict."""
    yield from provider_rows(validation.provider)
    without = f" without {', '.join(validation.without)}" if validation.without else ""
    yield heading(f"{validation.pruned} against {validation.original}{without}")
    yield from headline_rows(headline)
    if validation.cases:
        yield ""
        yield _cases(validation)
    yield ""
    yield from verdict_rows(validation)
    yield row("weights", f"{many(validation.weights_compared, 'stored tensor')} compared bit by bit")
    if validation.likeness is not None:
        yield row("graph", _graph(validation.likeness))


def verdict_rows(validation: Validation) -> Iterator[RenderableType]:
    """Verdict, drift, accuracy and where it ran."""
    style = _STYLES.get(validation.exact, "bold yellow")
    yield row("validation", f"{validation.verdict}: {validation.reason}", style)
    for problem in validation.problems[1:]:
        yield bullet(problem, "red")
    for note in validation.notes:
        yield bullet(note, "yellow")
    if validation.drift is not None:
        yield row("drift", _drift(validation.drift))
    if validation.accuracy is not None:
        yield row("accuracy", _accuracy(validation.accuracy))
    if validation.metric is not None:
        metric = validation.metric
        yield row(
            "metric",
            f"{metric.name}: {metric.original:.4g} -> {metric.pruned:.4g} on {many(metric.samples, 'sample')}"
            f" of {metric.measured_on}",
        )
    where = f"{validation.provider.label}{_placement(validation.placement)}"
    runtime = validation.versions["onnxruntime"]
    yield row("ran on", f"{where}, onnxruntime {runtime}")


def _cases(validation: Validation) -> RenderableType:
    numeric = ("error", "allowed", "effect")
    made = table("inputs", "settings", "shapes", *numeric, "", numeric=numeric, wraps=("shapes",))
    for case in validation.cases:
        feeds = "" if case.feeds == 1 else f" x{case.feeds}"
        mark = Text("ok", "green") if case.passed else Text("differs", "red")
        made.add_row(
            case.source + feeds,
            case.settings,
            _shapes(case.shapes),
            measure(case.max_rel_error),
            f"{case.tolerance:.0e}",
            f"{case.power:.1e}" if case.finite else "not finite",
            mark,
        )
    return made


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    listed = [f"{name} {'x'.join(str(dim) for dim in shape) or 'scalar'}" for name, shape in shapes.items()]
    return ", ".join(listed) if len(listed) < 3 else f"{listed[0]}, {len(listed) - 1} more"


def _drift(drift: Drift) -> str:
    value = "" if drift.value is None else f" {drift.value:.3g} ({drift.measure}),"
    agreement = "" if drift.top1_agreement is None else f", top-1 agreement {share(drift.top1_agreement)}"
    return (
        f"{drift.output} against the original on {drift.measured_on}:{value} largest difference"
        f" {drift.max:.3g} and mean difference {drift.mean:.3g} of its scale, cosine {drift.cosine:.4f}{agreement}"
    )


def _accuracy(accuracy: Accuracy) -> str:
    return (
        f"{spelled(accuracy.original)} -> {spelled(accuracy.pruned)} of {many(accuracy.count, 'label')}"
        f" (argmax of {accuracy.output}) on {accuracy.measured_on}"
    )


def _graph(found: Likeness) -> str:
    if found.identical:
        return f"{many(found.nodes, 'node')}, all as planned but for names and order"
    places = many(found.count, "place")
    missing = f", {many(len(found.missing), 'planned node')} missing" if found.missing else ""
    same = f"{found.same} of {many(found.nodes, 'node')} are the planned ones{missing}"
    return f"{same}; it parts from the plan in {places}"


def _placement(placement: Mapping[str, int]) -> str:
    if len(placement) < 2:
        return ""
    names = (f"{number} on {name.removesuffix('ExecutionProvider')}" for name, number in placement.items())
    return f" (nodes: {', '.join(names)})"
