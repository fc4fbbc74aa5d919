"""The page of supported graphs, from rows: ``python -m tests.zoo.pages`` writes it again from those that are kept.

Families and packages have a table each, of one form. Nothing is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from pathlib import Path

from tests.zoo.known import reason_for
from tests.zoo.row import HEADS, LAYERS, NEURONS, Outcome, Row, Verdict

PAGE = Path(__file__).parents[2] / "docs" / "supported-graphs.md"
RESULTS = Path(__file__).with_name("results.jsonl")
"""The rows of the last measurement; its first line says of each set when and with which versions."""
TWIN = "-sdpa"
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
SETS = {"families": "Families", "packages": "Packages in the wild"}
"""The sets that are measured; each is a part of the page."""


def column(variant: str) -> str:
    """The key of a variant's column; of several steps the last one of `_STEPS` counts, which changes a graph most."""
    steps = variant.split("+")
    found = [key for key, own in _STEPS.items() if any(step in own for step in steps)]
    exporter = next((key for key in ("ts", "dyn") if re.match(rf"{key}\d", steps[0])), "export")
    return found[-1] if found else exporter


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


def word(verdicts: Sequence[Verdict], notes: Notes) -> str:
    """How the cuts of one kind ended in some graphs: the worst outcome, and the numbers of reasons."""
    if failures := sorted({verdict.outcome for verdict in verdicts if verdict.outcome.is_failure}):
        return f"**{', '.join(failures)}**"
    gathers = {f"edge gather: {reason}" for verdict in verdicts for reason in verdict.gathers}
    refusals = {f"refused: {reason}" for verdict in verdicts for reason in verdict.refusals}
    marks, outcomes = notes.mark(sorted(gathers | refusals)), {verdict.outcome for verdict in verdicts}
    if Outcome.GATHERS in outcomes:
        return f"gather {marks}"
    if Outcome.EXACT in outcomes:
        return f"exact {marks}".rstrip()
    return "none" if outcomes == {Outcome.NO_SITE} else marks


def cell(rows: Sequence[Row], notes: Notes) -> str:
    """What became of heads, neurons and layers in the graphs of one column, once where all became the same."""
    made = [row for row in rows if not row.failed]
    if not made:
        marks = notes.mark(sorted({f"no export: {row.failed}" for row in rows}))
        return f"- {marks}".rstrip()
    kinds = [
        [row.verdicts[kind] for row in made if kind in row.verdicts] for kind in (HEADS, NEURONS, LAYERS)
    ]
    words = [word(verdicts, notes) for verdicts in kinds if verdicts]
    words = words[:1] if len(set(words)) == 1 else words
    lacking = notes.mark(
        sorted({f"near miss: {text}" for row in made if row.is_short for text in row.misses})
    )
    return " / ".join(words) + (f" [{lacking}]" if lacking else "")


def runs(numbers: Iterable[object]) -> str:
    """Numbers with runs of the same one shortened: "1, 3 x2"."""
    found = [(number, len(list(run))) for number, run in groupby(numbers)]
    return ", ".join(f"{number} x{times}" if times > 1 else str(number) for number, times in found) or "0"


def count_cells(row: Row) -> Iterator[str]:
    """Heads, KV heads, MLPs and layers as they are found; bold beside those of the module where they differ."""
    known = [heads is not None for heads in row.found.heads]
    shown = {
        "heads": ["-" if heads is None else heads for heads in row.found.heads],
        "kv": [number or ("?" if there else "-") for number, there in zip_longest(row.found.kv, known)],
        "blocks": [row.found.blocks or 0],
        "layers": row.found.layers or (),
    }
    for name, found in shown.items():
        true = getattr(row.true, name)
        listed = [true] if isinstance(true, int) else true
        wrong = f"**{runs(found)} ({runs(listed or ())})**"
        yield wrong if name in row.miscounted else f"{runs(found)} ?" if true is None else runs(found)


def plain(rows: Sequence[Row]) -> Row | None:
    """The row that speaks for the counts of an architecture: of its plain exports the first of the sample."""
    exports = [row for row in rows if row.variant in SAMPLE and "+" not in row.variant and not row.failed]
    return min(exports, key=lambda row: (row.found.blocks is None, SAMPLE.index(row.variant)), default=None)


def table(rows: Sequence[Row], notes: Notes) -> Iterator[str]:
    """A line for each architecture; columns of which nothing was measured are left out."""
    cells: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.family, row.case.removesuffix(TWIN)][column(row.variant)].append(row)
    keys = [key for key in COLUMNS if any(key in own for own in cells.values())]
    heads = ["graph", "heads", "KV heads", "MLPs", "layers", *(COLUMNS[key] for key in keys)]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for (_, case), own in sorted(cells.items()):
        speaker = plain([row for some in own.values() for row in some])
        counts = [""] * 4 if speaker is None else list(count_cells(speaker))
        yield f"| {' | '.join([case, *counts, *(cell(own[key], notes) if key in own else '' for key in keys)])} |"


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """How many graphs there are, how their cuts ended, and which counts differ."""
    built = [row for row in rows if not row.failed]
    cases, families = {row.case.removesuffix(TWIN) for row in rows}, {row.family for row in rows}
    yield f"{len(built)} of {len(rows)} graphs of {len(cases)} architectures in {len(families)} families or packages."
    for kind in (HEADS, NEURONS, LAYERS):
        verdicts = [row.verdicts[kind] for row in built if kind in row.verdicts]
        counts = Counter(verdict.outcome for verdict in verdicts)
        told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
        equal, compared, torch = (
            sum(getattr(v, name) for v in verdicts) for name in ("equal", "compared", "torch")
        )
        if verdicts:
            yield f"{kind}: {told}; {equal} of {compared} cuts are equal, {torch} of them to PyTorch."
    for name in ("heads", "kv", "blocks", "layers"):
        known = [row for row in built if getattr(row.true, name) not in (None, ())]
        apart = sum(name in row.miscounted for row in known)
        yield f"number of {name}: told by the modules of {len(known)} graphs, {apart} differ."


def part(title: str, rows: Sequence[Row], header: Sequence[str], mark: str = "##") -> str:
    """One set: when it was measured, its table, its reasons, and what is not as it must be."""
    notes = Notes()
    lines = list(table(rows, notes))
    told = [f"* {line}" for line in (*header, *summary(rows))]
    wrong = sorted(
        {
            f"* {row.case if (why := reason_for(row)) else row.name}: {why or row}"
            for row in rows
            if row.problems
        }
    )
    ends = [f"\n{mark}# Not as it must be\n", *wrong] if wrong else []
    return (
        "\n".join([f"{mark} {title}\n", *told, "", *lines, f"\n{mark}# Reasons\n", *notes.lines(), *ends])
        + "\n"
    )


_MARK = re.compile(r"^<!-- part: (\w+) -->\n", re.MULTILINE)


def read_parts(text: str) -> dict[str, str]:
    """The parts of a page by name; "" is what stands in front of them."""
    first, *rest = _MARK.split(text)
    parts = {"": first, **dict(zip(rest[::2], rest[1::2], strict=True))}
    return {name: said.rstrip("\n") + "\n" for name, said in parts.items()}


def write(page: Path, rows: Sequence[Row], measured: Mapping[str, Sequence[str]]) -> None:
    """Writes the parts of which rows were measured, and leaves the others."""
    known = read_parts(page.read_text()) if page.exists() else {}
    parts = {name: said for name, said in known.items() if name in ("", *SETS)}
    parts.setdefault("", INTRODUCTION)
    for name, title in SETS.items():
        if own := [row for row in rows if row.package == (name == "packages")]:
            parts[name] = part(title, own, measured.get(name, ()))
    marked = [f"<!-- part: {name} -->\n{parts[name]}" for name in SETS if name in parts]
    page.write_text("\n".join([parts[""], *marked]))


def keep(path: Path, measured: Mapping[str, Sequence[str]], rows: Iterable[Row]) -> None:
    """Writes what `kept` reads."""
    lines = [json.dumps({"measured": measured}), *(row.to_json() for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def kept(path: Path) -> tuple[dict[str, list[str]], list[Row]]:
    """Sentences about the last measurement, by set, and its rows."""
    first, *lines = path.read_text().splitlines()
    return json.loads(first)["measured"], [Row.from_json(line) for line in lines]


INTRODUCTION = """# Supported graphs

Written by `python -m tests.zoo.pages`; do not edit. Every cell is measured: tiny models with random weights are
exported, looked at and pruned. What is found is compared with the attributes of the modules: the heads around each
output projection, the lengths of the containers of layers, the modules that are MLPs. Each cut is compared with PyTorch
without these units (heads: several sets, each attention of a package also alone; neurons: a third of each block, half,
and all of one; layers: the last one, and every second one), or, where numbers are quantized or half as long, with the
masked reference. With a cache, past and present are narrowed, and eight steps must give what one pass gives.

| cell | meaning |
|---|---|
| `exact` | equal to the silenced model, and nothing left of the units |
| `exact / gather 2 / none` | heads, neurons and layers, once where all are the same |
| `gather` | equal, but some edge needs a `Gather` at run time; the numbers say why |
| a number | refused, for the reason of that number; beside `exact`: of one set of units |
| `[3]` | an attention is no site, for that reason |
| `none` | there is nothing of this kind in the graph |
| `-` | the exporter, or the tool before us, failed; an empty cell was not measured |
| `3 x2`, `?` | two attentions of three heads; the module's attributes tell nothing, or nothing shows who shares keys |
| **bold** | not as it must be, the module's number in brackets: see the end |
"""


if __name__ == "__main__":
    _measured, _rows = kept(RESULTS)
    write(PAGE, _rows, _measured)
    sys.exit(int(any(row.problems and reason_for(row) is None for row in _rows)))
