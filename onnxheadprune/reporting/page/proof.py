"""Is it exact? The verdict, what it covers and what not; and what became of the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxheadprune.model.documents import Document
from onnxheadprune.model.spelling import accuracy as spelled
from onnxheadprune.model.spelling import many, measure, share
from onnxheadprune.validation.headline import Answer, headline_of


@dataclass(frozen=True)
class Case:
    """Inputs that both models were run on."""

    source: str
    settings: str
    shapes: str
    error: str
    allowed: str
    outcome: str


@dataclass(frozen=True)
class Proof:
    """The verdict on a result, and the effects of the cut."""

    exact: Answer
    reason: str
    covers: tuple[str, ...]
    open_points: tuple[str, ...]
    cases: tuple[Case, ...]


def proof_of(validation: Document | None, remarks: tuple[str, ...] = (), *, quantized: bool = False) -> Proof:
    """The verdict in words."""
    exact = headline_of([validation], quantized=quantized).exact
    if validation is None:
        return Proof(exact, "validation was skipped", (), remarks, ())
    open_points = (*validation["problems"], *validation["notes"], *remarks, *_open(validation))
    cases = tuple(_case(case) for case in validation["cases"])
    covers = tuple(_covers(validation))
    return Proof(exact, validation["reason"], covers, open_points, cases)


def _covers(validation: Document) -> Iterator[str]:
    cases = validation["cases"]
    if cases:
        worst = measure(validation["max_rel_error"])
        feeds = sum(case["feeds"] for case in cases)
        yield (
            f"Outputs of both models on {many(feeds, 'input')} of {many(len(cases), 'kind')}: the largest relative"
            f" error is {worst}, and leaving out what was removed changes them by {measure(validation['power'])}."
        )
    graph = validation.get("structure")
    if graph:
        if graph["identical"]:
            yield f"The graph: all {many(graph['nodes'], 'node')} are as planned, but for names and order."
        else:
            yield (
                f"The graph: {graph['same']} of {many(graph['nodes'], 'node')} are the planned ones; it parts from"
                f" the plan in {many(graph['count'], 'place')}."
            )
    if validation.get("weights_compared"):
        yield f"{many(validation['weights_compared'], 'stored tensor')}, compared bit by bit."


def _open(validation: Document) -> Iterator[str]:
    refitted = validation.get("refitted")
    if refitted:
        yield (
            f"{many(len(refitted), 'tensor')} hold other numbers than in the original, to make up for what"
            " was removed: equality is with the original that has these numbers too. What they cost is in the figures"
            " on the outputs."
        )
    drift = validation.get("drift")
    if drift and drift["source"] != "data":
        yield "Drift is measured on random inputs; only your own data (--data) shows what the cut costs."


def _case(case: Document) -> Case:
    shapes = ", ".join(
        f"{name} {'x'.join(map(str, dims)) or 'scalar'}" for name, dims in case["shapes"].items()
    )
    times = "" if case["feeds"] == 1 else f", {case['feeds']} inputs"
    outcome = "equal" if case["passed"] else "differs"
    if not case["finite"]:
        outcome += " (not finite)"
    return Case(
        case["source"] + times,
        case["settings"],
        shapes,
        measure(case["max_rel_error"]),
        f"{case['tolerance']:.0e}",
        outcome,
    )


@dataclass(frozen=True)
class Effect:
    """A change of the outputs: a name, a value, and on what it was measured."""

    name: str
    value: str
    on: str


def effects_of(validation: Document | None, choice: Document | None) -> list[Effect]:
    """Return what the cut does to outputs: drift, agreement, accuracy, a metric."""
    measured = validation or {}
    # What is deployed is what counts: of a quantized model its own figures.
    return [*_validated(measured.get("deployed", measured)), *_chosen(choice or {})]


def _validated(validation: Document) -> Iterator[Effect]:
    found, metric, drift = (validation.get(name) for name in ("accuracy", "metric", "drift"))
    if found:
        yield Effect(
            "accuracy",
            f"{spelled(found['original'])} → {spelled(found['pruned'])}",
            f"{many(found['count'], 'label')}, {found['measured_on']}",
        )
    if metric:
        yield Effect(
            metric["name"],
            f"{metric['original']:.4g} → {metric['pruned']:.4g}",
            f"{many(metric['samples'], 'sample')}, {metric['measured_on']}",
        )
    if isinstance(drift, float):
        yield Effect(f"drift ({validation['drift_unit']})", f"{drift:.3g}", validation["measured_on"])
    elif drift:
        on = f"{drift['output']}, {drift['measured_on']}"
        if drift["value"] is not None:
            yield Effect(f"drift ({drift['measure']})", f"{drift['value']:.3g}", on)
        yield Effect("cosine to the original", f"{drift['cosine']:.4f}", on)
        if drift["top1_agreement"] is not None:
            yield Effect("top-1 agreement", share(drift["top1_agreement"]), on)


def _chosen(choice: Document) -> Iterator[Effect]:
    if choice.get("drift") is not None:
        value = f"{choice['drift']:.3g}"
        yield Effect(f"selection drift ({choice['drift_unit']})", value, choice["drift_measured_on"])
    recovery = choice.get("recovery")
    if recovery is not None:
        loss = recovery["held_out_loss"]
        on = many(recovery["held_out_samples"], "held-out sample")
        if recovery["rejected"] is not None:
            on = f"{on}; not written: {recovery['rejected']}"
        yield Effect("loss of the recovery", f"{loss['before']:.3g} → {loss['after']:.3g}", on)
