"""The page of supported graphs, from rows: ``python -m tests.zoo.pages`` writes it again from those that are kept.

It has four parts: the families without heads, packages, the families without neurons and layers, and counts. A part
of whose rows none was measured stays as it is. Nothing is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from tests.zoo.known import reason_for
from tests.zoo.row import HEADS, LAYERS, NEURONS, Outcome, Row, Verdict

PAGE = Path(__file__).parents[2] / "docs" / "supported-graphs.md"
RESULTS = Path(__file__).with_name("results.jsonl")
"""The rows of the last measurement; its first line says of each part when and with which versions."""
TWIN = "-sdpa"
TITLES = {"ts17": "TorchScript", "dyn18": "dynamo"}
COLUMNS = {
    "export": "as exported",
    "opt": "onnxoptimizer",
    "ts": "TorchScript 14/17",
    "dyn": "dynamo 18/23",
    "raw": "unoptimised",
    "ort": "ORT basic/extended",
    "fused": "ORT fused attention",
    "slim": "onnxslim",
    "sim": "onnxsim",
    "half": "fp16/bf16",
    "int8": "dynamic int8",
    "qdq": "QDQ/QLinear",
    "nbits": "4/8-bit MatMulNBits",
    "scopes": "If/Loop/functions",
    "data": "external data",
}
"""Kinds of graph; the first two are of exporters with an environment of their own (`tests.zoo.foreign`)."""
SAMPLE = (
    *("ts17", "dyn18", "ts14", "dyn23", "ts17raw", "dyn18raw", "ts17+ort-basic", "ts17+ort-extended"),
    *("dyn18+ort-extended", "ts17+ort-fused", "dyn18+ort-fused", "ts17+slim", "dyn18+slim", "ts17+sim"),
    *("ts17+fp16", "ts17half", "ts17+bf16w", "ts17+int8dyn", "ts17+qdq", "ts17+qop", "ts17+nbits4"),
    *("ts17+nbits8", "ts17+in-if", "ts17+in-loop", "ts17+functions", "ts17+extdata"),
)
"""Variants that fill every column; the others combine these steps or repeat them on another export."""
_STEPS = {
    "raw": ("ts17raw", "dyn18raw"),
    "ort": ("ort-basic", "ort-extended", "O1"),
    "slim": ("slim",),
    "sim": ("sim",),
    "opt": ("optimizer",),
    "data": ("extdata",),
    "half": ("fp16", "bf16w", "ts17half", "dyn18half", "common16", "genai-fp16-cpu", "genai-fp16-cuda"),
    "fused": ("ort-fused", "O2", "O3"),
    "scopes": ("in-if", "in-loop", "functions"),
    "int8": ("int8dyn", "ortq"),
    "qdq": ("qdq", "qdq-tensor", "qop"),
    "nbits": ("nbits4", "nbits8", "genai-int4-cpu", "genai-int4-cuda"),
}


def column(variant: str) -> str:
    """The key of a variant's column; of several steps the last one of `_STEPS` counts, which changes a graph most."""
    steps = variant.split("+")
    found = [key for key, own in _STEPS.items() if any(step in own for step in steps)]
    return (
        found[-1]
        if found
        else next((key for key in ("ts", "dyn") if re.match(rf"{key}\d", steps[0])), "export")
    )


class Notes:
    """Numbers for sentences, in order of first use."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, sentences: Iterable[str]) -> str:
        """The numbers of sentences: "1,4"."""
        found = [self.numbers.setdefault(sentence, len(self.numbers) + 1) for sentence in sentences]
        return ",".join(map(str, sorted(found)))

    def lines(self) -> Iterator[str]:
        """The sentences with their numbers; what an exporter says may look like a link."""
        yield from (f"{number}. {text}".replace("[", r"\[") for text, number in self.numbers.items())


def word(verdicts: Sequence[Verdict], notes: Notes, nothing: str) -> str:
    """One cell of a table of architectures: the worst outcome.

    Args:
        verdicts: of the cell's rows.
        notes: what numbers the reasons.
        nothing: where there is nothing of the kind in the graph.
    """
    failures = sorted({verdict.outcome for verdict in verdicts if verdict.outcome.is_failure})
    if failures:
        return f"**{', '.join(failures)}**"
    gathers = {f"edge gather: {reason}" for verdict in verdicts for reason in verdict.gathers}
    refusals = {f"refused: {reason}" for verdict in verdicts for reason in verdict.refusals}
    marks, outcomes = notes.mark(sorted(gathers | refusals)), {verdict.outcome for verdict in verdicts}
    if Outcome.GATHERS in outcomes:
        return f"gather {marks}"
    if Outcome.EXACT in outcomes:
        return f"exact {marks}".rstrip()
    return nothing if outcomes == {Outcome.NO_SITE} else marks


def architectures(rows: Iterable[Row]) -> dict[str, str]:
    """The family of each architecture; its twin with another attention is the same one."""
    return {row.case.removesuffix(TWIN): row.family for row in rows}


def grid(rows: Sequence[Row], shown: Callable[[Sequence[Row]], str]) -> list[str]:
    """The lines of a table with a row per architecture, family by family, and a column per kind of graph.

    Columns of which nothing was measured are left out: what stands for no graph would say that nothing could be.
    """
    cells: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.case.removesuffix(TWIN)][column(row.variant)].append(row)
    keys = [key for key in COLUMNS if any(key in own for own in cells.values())]
    families = architectures(rows)
    lines = [f"| graph | {' | '.join(COLUMNS[key] for key in keys)} |", f"|---|{'---|' * len(keys)}"]
    return lines + [
        f"| {case} | {' | '.join(shown(cells[case][key]) for key in keys)} |"
        for case in sorted(cells, key=lambda name: (families[name], name))
    ]


def _bullets(lines: Iterable[str]) -> list[str]:
    return [f"* {line}" for line in lines]


def zoo(rows: Sequence[Row], header: Sequence[str], title: str = "Supported graphs") -> str:
    """The part on heads of the families."""
    own = [row for row in rows if not row.package]
    if not all(HEADS in row.verdicts for row in own):
        return ""
    notes = Notes()
    lines = grid(
        own, lambda some: word([row.verdicts[HEADS] for row in some], notes, "no site") if some else "-"
    )
    counts = Counter(row.verdicts[HEADS].outcome for row in own)
    counted = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    steps = sum(row.verdicts[HEADS].steps for row in own)
    told = f"{len(own)} graphs of {len(architectures(own))} architectures: {counted}; {steps} with decoding steps."
    parts = [
        ZOO.format(title=title),
        *_bullets([*header, told]),
        ZOO_LEGEND,
        *lines,
        "\n## Reasons\n",
        *notes.lines(),
    ]
    failed: dict[tuple[str, Outcome], list[Row]] = defaultdict(list)
    for row in own:
        if row.verdicts[HEADS].outcome.is_failure:
            failed[row.case, row.verdicts[HEADS].outcome].append(row)
    if failed:
        parts += ["\n## Not as it must be\n"]
    parts += _bullets(
        f"{case}: {outcome} as {', '.join(row.variant for row in some)}: {some[0].verdicts[HEADS].words}"
        for (case, outcome), some in failed.items()
    )
    return "\n".join(parts) + "\n"


def wild_cell(row: Row | None, notes: Notes) -> str:
    """One cell of the table of packages."""
    if row is None:
        return ""

    def marked(*sentences: str) -> str:
        return f" [{notes.mark(sentences)}]" if sentences else ""

    if row.failed:
        return f"-{marked(f'no export: {row.failed}')}"
    verdict = row.verdicts[HEADS]
    if verdict.outcome is Outcome.ERROR:
        return f"**{verdict.words.partition(':')[0]}**{marked(f'error: {verdict.words}')}"
    count = len(row.true.heads)
    words = [str(count) if row.sites == count else f"{row.sites} of {count}"]
    if verdict.compared:
        apart = verdict.equal < verdict.compared
        words.append(f"**{verdict.equal} of {verdict.compared} cuts**" if apart else f"{verdict.equal} cuts")
    if "heads" in row.miscounted:
        words.append(f"**heads {', '.join(str(heads) for heads in row.found.heads)}**")
    if row.extra:
        words.append(f"**{len(row.extra)} no attention**")
    if row.silent:
        words.append(f"**{row.silent} without a word**")
    sentences = [f"refused: {text}" for text in verdict.refusals] + [
        f"near miss: {text}" for text in row.misses
    ]
    return ", ".join(words) + marked(*sentences)


def runs(numbers: Iterable[object]) -> str:
    """Numbers with runs of the same one shortened: "1, 3 x2"."""
    found = [(number, len(list(run))) for number, run in groupby(numbers)]
    return ", ".join(f"{number} x{times}" if times > 1 else str(number) for number, times in found)


def _is_miscounted(row: Row) -> bool:
    return "heads" in row.miscounted or bool(row.extra)


def wild(rows: Sequence[Row], header: Sequence[str]) -> str:
    """The part on packages."""
    cells: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row.package:
            cells[row.family, row.case][row.variant] = row
    own = [row for found in cells.values() for row in found.values()]
    if not own:
        return ""
    notes = Notes()
    lines = [f"| graph | heads | {' | '.join(TITLES.values())} |", "|---|---|---|---|"]
    for (_, case), found in sorted(cells.items()):
        true = max((row.true.heads for row in found.values()), key=len)
        entries = " | ".join(wild_cell(found.get(variant), notes) for variant in TITLES)
        lines.append(f"| {case} | {runs(true)} | {entries} |")
    built = [row for row in own if not row.failed]
    verdicts = [row.verdicts[HEADS] for row in built]
    exports, cases, packages = (
        len(built),
        len({row.case for row in built}),
        len({row.family for row in built}),
    )
    found, attentions = (
        sum(some) for some in zip(*((row.sites, len(row.true.heads)) for row in built), strict=True)
    )
    wrong, silent = sum(_is_miscounted(row) for row in built), sum(row.silent for row in built)
    told = [f"{exports} exports of {cases} architectures of {packages} packages reached the tool;"]
    told[0] += f" {len(own) - exports} could not be made."
    told += [
        f"{found} of {attentions} attentions are sites, {wrong} exports show a wrong number of heads or a site"
    ]
    told[1] += f" that is none, {silent} attentions are overlooked without a word."
    told += [f"{sum(v.equal for v in verdicts)} of {sum(v.compared for v in verdicts)} cuts equal PyTorch."]
    parts = [WILD, *_bullets([*header, *told]), WILD_LEGEND, *lines]
    short = [row for row in own if row.problems]
    if known := {f"{row.case}: {why}" for row in short if (why := reason_for(row)) is not None}:
        parts += ["\n### Known not to be as it should\n", *_bullets(sorted(known))]
    if unknown := [row for row in short if reason_for(row) is None]:
        parts += ["\n### Not as it must be\n", *_bullets(str(row) for row in unknown)]
    return "\n".join([*parts, "\n### Reasons in the wild\n", *notes.lines()]) + "\n"


def unit_cell(rows: Sequence[Row], notes: Notes) -> str:
    """One cell of the table of neurons and layers."""
    if not rows:
        return ""
    measured = [[row.verdicts[kind] for row in rows if kind in row.verdicts] for kind in (NEURONS, LAYERS)]
    return " / ".join(dict.fromkeys(word(verdicts, notes, "none") for verdicts in measured if verdicts))


def units(rows: Sequence[Row], header: Sequence[str]) -> str:
    """The part on neurons and layers of the families."""
    own = [row for row in rows if not row.package and NEURONS in row.verdicts]
    if not own:
        return ""
    notes = Notes()
    lines = grid(own, lambda some: unit_cell(some, notes))
    told = [f"{len(own)} graphs of {len(architectures(own))} architectures."]
    for kind in (NEURONS, LAYERS):
        verdicts = [row.verdicts[kind] for row in own if kind in row.verdicts]
        if not verdicts:
            told.append(f"{kind.capitalize()}: not measured with this version.")
            continue
        counts = Counter(verdict.outcome for verdict in verdicts)
        counted = ", ".join(
            f"{counts[outcome]} {'with none' if outcome is Outcome.NO_SITE else outcome}"
            for outcome in Outcome
            if counts[outcome]
        )
        equal, torch = (sum(getattr(verdict, name) for verdict in verdicts) for name in ("equal", "torch"))
        told.append(f"{kind.capitalize()}: {counted}; {equal} cuts are equal, {torch} of them to PyTorch.")
    parts = [UNITS, *_bullets([*header, *told]), UNITS_LEGEND, *lines]
    parts += ["\n### Reasons for neurons and layers\n", *notes.lines()]
    failures = [
        f"{row.name}, {kind}: {verdict.outcome}: {verdict.words}"
        for row in own
        for kind, verdict in row.failures.items()
        if kind != HEADS
    ]
    if failures:
        parts += ["\n### Neurons and layers that are not as they must be\n", *_bullets(failures)]
    return "\n".join(parts) + "\n"


def count_cells(row: Row) -> Iterator[str]:
    """The cells of a row of the table of counts."""

    def cell(name: str, found: Iterable[object], true: Sequence[object] | None) -> str:
        text = runs(found) or "0"
        if name in row.miscounted:
            return f"**{text} ({runs(true or ()) or '0'})**"
        return f"{text} ?" if true is None else text

    known = [heads is not None for heads in row.found.heads]
    yield cell("heads", ["-" if heads is None else heads for heads in row.found.heads], row.true.heads)
    kv = [number or ("?" if there else "-") for number, there in zip(row.found.kv, known, strict=True)]
    yield cell("kv", kv, row.true.kv)
    yield cell("blocks", [row.found.blocks or 0], None if row.true.blocks is None else [row.true.blocks])
    yield ", ".join(f"{number} {kind}" for kind, number in row.kinds.items() if kind != "feed-forward")
    yield cell("layers", row.found.layers or (), row.true.layers)


def counts(rows: Sequence[Row], header: Sequence[str]) -> str:
    """The part on counts, a row per architecture: of its plain exports the first of the sample."""
    plain = [
        row
        for row in rows
        if row.found.blocks is not None and row.variant in SAMPLE and "+" not in row.variant
    ]
    plain.sort(key=lambda row: SAMPLE.index(row.variant))
    own = {(row.package, row.case): row for row in reversed(plain) if not row.case.endswith(TWIN)}
    found = [own[key] for key in sorted(own)]
    if not found:
        return ""
    lines = ["| graph | heads | kv | MLPs | others | layers |", "|---|---|---|---|---|---|"]
    lines += [f"| {row.name} | {' | '.join(count_cells(row))} |" for row in found]
    told = [f"{len(found)} graphs of {len(found)} architectures."]
    for name in ("heads", "kv", "blocks", "layers"):
        compared = [row for row in found if getattr(row.true, name) not in (None, ())]
        wrong = sum(name in row.miscounted for row in compared)
        told.append(f"{name}: compared in {len(compared)} graphs, {wrong} differ.")
    parts = [COUNTS, *_bullets([*header, *told]), COUNTS_LEGEND, *lines]
    if named := [f"{row.name}: {why}" for row in found if row.miscounted and (why := reason_for(row))]:
        parts += ["\n### Counts that differ, and why\n", *_bullets(named)]
    return "\n".join(parts) + "\n"


PARTS: Mapping[str, Callable[[Sequence[Row], Sequence[str]], str]] = {
    "zoo": zoo,
    "wild": wild,
    "units": units,
    "counts": counts,
}
"""The function that writes each part; the first one stands before any mark."""
_MARK = re.compile(r"^<!-- part: (\w+) -->\n", re.MULTILINE)


def read_parts(text: str) -> dict[str, str]:
    """The parts of a page by name."""
    first, *rest = _MARK.split(text)
    parts = {"zoo": first, **dict(zip(rest[::2], rest[1::2], strict=True))}
    return {name: said.rstrip("\n") + "\n" for name, said in parts.items()}


def write(page: Path, rows: Sequence[Row], measured: Mapping[str, Sequence[str]]) -> None:
    """Writes the parts of a page of which rows were measured, and leaves the others.

    Args:
        page: made if it is not there.
        rows: all there are.
        measured: sentences about the run, by part.
    """
    parts = read_parts(page.read_text()) if page.exists() else {}
    for name, part in PARTS.items():
        if said := part(rows, measured.get(name, ())):
            parts[name] = said
    marked = [f"<!-- part: {name} -->\n{said}" for name, said in parts.items() if name != "zoo"]
    page.write_text("\n".join([parts.get("zoo", ""), *marked]))


def keep(path: Path, measured: Mapping[str, Sequence[str]], rows: Iterable[Row]) -> None:
    """Writes what `kept` reads."""
    lines = [json.dumps({"measured": measured}), *(row.to_json() for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def kept(path: Path) -> tuple[dict[str, list[str]], list[Row]]:
    """Sentences about the last measurement, by part, and its rows."""
    first, *lines = path.read_text().splitlines()
    return json.loads(first)["measured"], [Row.from_json(line) for line in lines]


ZOO = """# {title}

Written by `python -m tests.zoo.pages`; do not edit. Every cell is measured: tiny models with random weights
are exported, pruned with several head sets (the same heads in every layer, different ones, one head left,
half, all heads of one block; for grouped queries also query heads alone) and compared with PyTorch, where the
same heads are silenced. Quantized graphs are compared with the masked reference in ONNX Runtime. With a
cache, past and present are narrowed, and eight decoding steps must give what one pass gives.
"""
ZOO_LEGEND = """
| cell | meaning |
|---|---|
| `exact` | equal to the silenced model, and nothing left of the heads |
| `gather` | equal, but some edge needs a `Gather` at run time; the numbers say why |
| a number | refused, for the reason of that number |
| `exact` and a number | equal, but one kind of head set (usually all heads of a block) is refused |
| `no site` | there is nothing to prune, and the engine says so |
| `-` | the exporter or the tool before us failed, or the step does not apply |
| **bold** | not as it must be: see the end of the page |
"""
WILD = """## Packages in the wild

Models of packages that are not ours, built by name with tiny random configurations and exported as they are. The true
numbers of heads come from the modules' own attributes, never from the tool. Every attention is cut alone and together
with all others, and each cut is compared with PyTorch, where the same columns of the output projections are zeroed.
"""
WILD_LEGEND = """
| cell | meaning |
|---|---|
| `2, 5 cuts` | 2 attentions found, all that there are, with the true numbers of heads; 5 cuts equal to PyTorch |
| `1 of 2` | one of two attentions is found; the numbers say why the other one is not |
| a number in brackets | a reason, at the end: of a refusal, of a near miss, or what the exporter said |
| `-` | no export; an empty cell was not measured |
| **bold** | wrong heads, a site that is no attention, an attention without a word, or an unequal cut |
"""
UNITS = """## Neurons and layers

The same graphs without neurons and without layers. Of the feed-forward blocks that are found, the same third of each
goes, another half of each, and all of one; of the layers the last one, and every second one. A removed layer is the
identity between two states of its residual stream. Each cut must do fewer operations than the original, and equal
PyTorch, where the columns that read these units are zero in the module and removed layers are the identity, or the
masked reference: where numbers are quantized or half as long, or a map is not stored as the module has it.
"""
UNITS_LEGEND = """
| cell | meaning |
|---|---|
| `exact` | the units go, and what is left equals the silenced model |
| `exact / gather 2` | the first word is for neurons, the second for layers, where the two differ |
| `gather`, numbers, **bold** | as above; a number beside `exact` says why some blocks or layers stay |
| `none` | there is no feed-forward block in the graph |
| an empty cell | no graph, as above, or none that was measured |
"""
COUNTS = """## Heads, KV heads, blocks and layers

What `inspect` counts in each graph, compared with the attributes of the module that it was exported from: the numbers
of heads and of key/value heads, the lengths of the containers of layers, and the modules that are MLPs. Where a
module's attributes tell nothing, the cell shows only what is found, with a question mark.
"""
COUNTS_LEGEND = """
| column | meaning |
|---|---|
| heads, kv | of each attention, in order; `3 x2` are two with three heads, `?` unknown sharing of keys and values |
| MLPs | feed-forward blocks |
| others | blocks of other kinds |
| layers | of each stack that holds attention |
| `-` | an attention that is no site: the reasons stand above |
| **bold** | found, and the number of the module behind it |
"""


if __name__ == "__main__":
    _measured, _rows = kept(RESULTS)
    write(PAGE, _rows, _measured)
    sys.exit(int(any(row.problems and reason_for(row) is None for row in _rows)))
