"""Facts of a benchmark: verdicts, latencies with the intervals that the verdicts follow from, and remarks.

Made of the document that `bench --json` prints, for the terminal, Markdown, notebooks and pages alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from onnxheadprune.benchmarking.gate import Gate
from onnxheadprune.benchmarking.measure import NO_DIFFERENCE
from onnxheadprune.display.facts import Cell, Fact, Facts, Intervals, Part, Quantity, State, Table, Word
from onnxheadprune.display.spelling import count, many, rounded, share, short_names
from onnxheadprune.model.documents import Document
from onnxheadprune.model.graph.operator import STANDS_FOR_PATTERN

STATES: Mapping[str, State] = {"faster": "good", "slower": "bad"}
CACHE_LAYOUT = ("ReorderInput", "ReorderOutput")


class _Named(NamedTuple):
    """An operator by its name."""

    domain: str
    op_type: str


def _is_fused(operator: str) -> bool:
    """Return whether an operator of an optimized graph ("Softmax", "com.microsoft:BiasGelu") stands for several."""
    domain, _, op_type = operator.rpartition(":")
    return op_type not in CACHE_LAYOUT and (bool(domain) or _Named("", op_type) in STANDS_FOR_PATTERN)


def fused(operators: Mapping[str, int]) -> dict[str, int]:
    """The fused part of a histogram."""
    return {name: count for name, count in operators.items() if _is_fused(name)}


def bench_facts(document: Document) -> Facts:
    """The facts of a benchmark, from its document."""
    names = short_names([facts["name"] for facts in document["models"]])
    verdicts = [_verdict(document, index) for index in range(1, len(names))]
    parts: list[Part] = []
    title, answer = "latency", ""
    state: State = ""
    if len(verdicts) == 1:
        title, (answer, state) = names[1], verdicts[0]
    else:
        parts += [Fact(name, *verdict) for name, verdict in zip(names[1:], verdicts, strict=True)]
    gates = [Gate(**item) for item in document.get("gates") or ()]
    if gates:
        kept = all(gate.passed for gate in gates)
        answer = f"{'accepted' if kept else 'rejected'}: {answer}".removesuffix(": ")
        state = "good" if kept else "bad"
    parts += [gate.fact for gate in gates]
    for name, facts in zip(names, document["models"], strict=True):
        parts += [
            Fact("not comparable", f"{name}: {why}", "doubtful") for why in facts.get("differences", ())
        ]
    parts += [_plot(document, names), _latencies(document, names)]
    parts.append(Fact("ran on", _where(document)))
    parts += [Fact("note", note, "doubtful") for note in document["notes"]]
    return Facts(title, answer, state, tuple(parts), tuple(_details(document, names)))


def interval_of(comparison: Document) -> tuple[float, float]:
    """The speed-ups between which the verdict holds."""
    return 1 / comparison["ratio"]["high"], 1 / comparison["ratio"]["low"]


def label_of(point: Document) -> str:
    """Sizes of inputs in words."""
    parts = [f"batch {point['batch']}"]
    seq, past = point["seq"], point["past"]
    if seq == 1 and past:
        parts.append(f"1 token after {past}")
    elif seq is not None:
        parts.append(f"seq {seq}" + (f" after {past}" if past else ""))
    parts += [f"{name} {size}" for name, size in point["dims"].items()]
    return ", ".join(parts if point["extent"] is None else [*parts, f"size {point['extent']}"])


def _compared(document: Document, index: int) -> list[tuple[str, Document]]:
    """The comparison of one model at every size, by what the size is called."""
    return [
        (label_of(cell["point"]), cell["comparison"])
        for cell in document["cells"]
        if cell["model"] == index and cell["comparison"]
    ]


def _verdict(document: Document, index: int) -> tuple[str, State]:
    """The verdict on one model in words: of several sizes that differ, with the sizes."""
    cells = _compared(document, index)
    by_verdict: dict[str, list[tuple[str, Document]]] = {}
    for size, item in cells:
        by_verdict.setdefault(item["verdict"], []).append((size, item))
    if not by_verdict:
        return document["verdicts"].get(str(index), "not compared"), ""
    parts = []
    for verdict, found in by_verdict.items():
        factors = [item["speedup"] for _, item in found]
        if verdict == NO_DIFFERENCE:
            # The factor alone would contradict the verdict.
            factors = [end for _, item in found for end in interval_of(item)]
        low, high = min(factors), max(factors)
        spread = f"{low:.2f}x" if len(factors) == 1 else f"{low:.2f}x to {high:.2f}x"
        at = f" at {', '.join(size for size, _ in found)}" if len(by_verdict) > 1 else ""
        parts.append(f"{verdict}{at} ({spread})")
    (verdict, *others) = by_verdict
    return ", ".join(parts), "" if others else STATES.get(verdict, "open" if verdict == NO_DIFFERENCE else "")


def _latencies(document: Document, names: Sequence[str]) -> Table:
    columns = ("sizes", "model", "median ms", "speed-up", "interval", "verdict")
    rows: list[tuple[Cell, ...]] = []
    for cell in _by_size(document):
        found, compared = cell["latency_seconds"], cell["comparison"]
        last: tuple[Cell, ...] = ("", "", "")
        if compared:
            low, high = interval_of(compared)
            verdict = compared["verdict"]
            last = (
                f"{compared['speedup']:.2f}x",
                f"{low:.2f} to {high:.2f}",
                Word(verdict, STATES.get(verdict, "")),
            )
        rows.append((label_of(cell["point"]), names[cell["model"]], f"{1000 * found['p50']:.3g}", *last))
    return Table(columns, tuple(rows), columns[2:5], columns[5:])


def _by_size(document: Document) -> Iterator[Document]:
    """All cells, those of a size together."""
    points: list[Any] = []
    for cell in document["cells"]:
        if cell["point"] not in points:
            points.append(cell["point"])
    for point in points:
        yield from (cell for cell in document["cells"] if cell["point"] == point)


def _details(document: Document, names: Sequence[str]) -> Iterator[Part]:
    """Files, operations, memory, percentiles, bounds, and the method."""
    yield from _saved(document, names)
    yield _models(document, names)
    yield _percentiles(document, names)
    for name, facts in zip(names, document["models"], strict=True):
        if operators := facts.get("operators"):
            kinds = ", ".join(f"{number} {kind}" for kind, number in fused(operators).items())
            yield Fact("fused", f"{name}: {kinds or 'none'}")
    for how in sorted(
        {facts["memory"]["how"] for facts in document["models"] if "how" in (facts.get("memory") or {})}
    ):
        yield Fact("memory", f"{how}, at the largest size")
    yield Fact("method", method_of(document))


def _plot(document: Document, names: Sequence[str]) -> Intervals:
    """Medians with their intervals, size by size."""
    sizes = list(dict.fromkeys(label_of(cell["point"]) for cell in document["cells"]))
    quantities = []
    for index, name in enumerate(names):
        own = {
            label_of(cell["point"]): cell["latency_seconds"]
            for cell in document["cells"]
            if cell["model"] == index
        }
        found = [own.get(size) for size in sizes]
        medians = tuple(None if each is None else 1000 * each["p50"] for each in found)
        ends = tuple(None if each is None else (1000 * each["low"], 1000 * each["high"]) for each in found)
        quantities.append(Quantity(name, medians, ends))
    label = document["provider"].get("label") or _device(document["provider"]["name"])
    title = f"{label}, onnxruntime {document['versions']['onnxruntime']}"
    unit = f"median latency with its {100 * document['settings']['confidence']:.3g} % interval, ms"
    return Intervals(title, unit, tuple(sizes), tuple(quantities))


def _saved(document: Document, names: Sequence[str]) -> Iterator[Fact]:
    """The part of the time that the operations allow to be saved."""
    for index in range(1, len(names)):
        cells = [item for _, item in _compared(document, index)]
        saved = [item.get("saved_of_bound") for item in cells]
        known = [part for part in saved if part is not None]
        if known and len(known) == len(saved):
            least, most = (share(part) if part <= 1 else "more than all" for part in (min(known), max(known)))
            span = f"{least}" if len(known) == 1 else f"{least} at least, {most} at best"
            yield Fact("saved", f"{names[index]}: {span} of the time that its operations allow")


def _models(document: Document, names: Sequence[str]) -> Table:
    columns = ("model", "file", "params", "operations", "attention", "peak memory", "nodes")
    rows: list[tuple[Cell, ...]] = []
    for index, (name, facts) in enumerate(zip(names, document["models"], strict=True)):
        flops = [cell.get("flops") for cell in document["cells"] if cell["model"] == index][-1] or {}
        part, peak = flops.get("attention_share"), (facts.get("memory") or {}).get("peak_bytes")
        placed = facts.get("placement") or {}
        rows.append(
            (
                name,
                rounded(facts["file_bytes"], "B") if "file_bytes" in facts else "",
                count(facts["params"]) if "params" in facts else "",
                rounded(flops["total"]) + ("+" if flops.get("uncounted") else "") if flops else "",
                "" if part is None else share(part),
                "not measured" if peak is None else rounded(peak, "B"),
                ", ".join(f"{number} {_device(where)}" for where, number in placed.items()) or "unknown",
            )
        )
    return Table(columns, tuple(rows), columns[1:6], ("nodes",))


def _device(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _percentiles(document: Document, names: Sequence[str]) -> Table:
    columns = ("sizes", "model", "p90 ms", "p99 ms", "per second", "bound", "reached")
    rows: list[tuple[Cell, ...]] = []
    for cell in _by_size(document):
        found, compared = cell["latency_seconds"], cell["comparison"] or {}
        bound, reached = compared.get("speedup_bound"), compared.get("reached_of_bound")
        rows.append(
            (
                label_of(cell["point"]),
                names[cell["model"]],
                *(f"{1000 * found[name]:.3g}" if name in found else "" for name in ("p90", "p99")),
                f"{found['throughput']:,.4g}" if "throughput" in found else "",
                "" if bound is None else f"{bound:.3f}",
                "" if reached is None else share(reached),
            )
        )
    return Table(columns, tuple(rows), columns[2:])


def method_of(document: Document) -> str:
    """A sentence on the measurement of latencies."""
    used = document["settings"]
    runs = min(cell["latency_seconds"]["runs"] for cell in document["cells"])
    graphs = ", CUDA graphs" if used.get("cuda_graph") else ""
    return (
        f"{used['rounds']} rounds of fresh sessions, models in turn in random blocks, at least {runs} runs each{graphs}"
        f"; {used['confidence']:.1%} intervals of the speed-up over the rounds, from which the verdict follows"
    )


def _where(document: Document) -> str:
    machine, provider = document["machine"], document["provider"]
    cards = [card["name"] for card in machine["cards"]]
    name = provider.get("label") or _device(provider["name"])
    runtime = f"onnxruntime {document['versions']['onnxruntime']}"
    stray = [
        f"{number} of {facts['name']}"
        for facts in document["models"]
        if len(placed := facts.get("placement") or {}) > 1 and (number := placed.get("CPUExecutionProvider"))
    ]
    places = f"; nodes on the CPU: {', '.join(stray)}" if stray else ""
    cores = many(machine["cores"], "core")
    return "; ".join([f"{name}, {runtime}{places}", f"{machine['processor']}, {cores}", *cards])
