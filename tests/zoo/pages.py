"""The pages of supported graphs: ``python -m tests.zoo.pages`` writes their tables again from the rows that are kept.

Each set has a table, of one form. What stands in front of the tables is written by hand.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, zip_longest
from pathlib import Path

from tests.zoo.row import HEADS, LAYERS, NEURONS, Outcome, Row, Verdict

DOCS = Path(__file__).parents[2] / "docs"
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
_STEPS = {
    "raw": r"ts17raw|dyn18raw",
    "ort": r"ort-basic|ort-extended|O1",
    "slim": r"slim",
    "sim": r"sim",
    "opt": r"optimizer",
    "data": r"extdata",
    "half": r"fp16|bf16w|ts17half|dyn18half|common16|genai-fp16-\w+",
    "fused": r"ort-fused|O2|O3",
    "scopes": r"in-if|in-loop|functions",
    "int8": r"int8dyn|ortq",
    "qdq": r"qdq|qdq-tensor|qop",
    "nbits": r"nbits4|nbits8|genai-int4-\w+",
}
PAGES = {
    "supported-graphs.md": {"families": "Families", "packages": "Packages in the wild"},
    "supported-exporters.md": {name: name for name in ("optimum", "genai", "jax", "keras")},
}
"""The pages, and the sets that are a part of each, with their titles."""
MARK = "<!-- tables -->\n"


def column(variant: str) -> str:
    """Return the key of a variant's column; of several steps the last one of `_STEPS` counts, which changes most."""
    parts = variant.split("+")
    found = [key for key, own in _STEPS.items() if any(re.fullmatch(own, part) for part in parts)]
    exporter = next((key for key in ("ts", "dyn") if re.match(rf"{key}\d", variant)), "export")
    return found[-1] if found else exporter


def word(verdicts: Sequence[Verdict]) -> str:
    """Return how the cuts of one kind ended in some graphs: the worst outcome."""
    outcomes = {verdict.outcome for verdict in verdicts}
    if failures := sorted(outcome for outcome in outcomes if outcome.is_failure):
        return f"**{', '.join(failures)}**"
    some = ", some refused" if any(verdict.refusals for verdict in verdicts) else ""
    if Outcome.GATHERS in outcomes:
        return f"gather{some}"
    if Outcome.EXACT in outcomes:
        return f"exact{some}"
    return "none" if outcomes == {Outcome.NO_SITE} else "refused"


def cell(rows: Sequence[Row]) -> str:
    """Return what became of heads, neurons and layers in the graphs of one column, once where all became the same."""
    made = [row for row in rows if not row.failed]
    kinds = (
        [row.verdicts[kind] for row in made if kind in row.verdicts] for kind in (HEADS, NEURONS, LAYERS)
    )
    words = [word(verdicts) for verdicts in kinds if verdicts]
    return (words[0] if len(set(words)) == 1 else " / ".join(words)) if made else "-"


def runs(numbers: Iterable[object]) -> str:
    """Return numbers with runs of the same one shortened: "1, 3 x2"."""
    found = [(number, len(list(run))) for number, run in groupby(numbers)]
    return ", ".join(f"{number} x{times}" if times > 1 else str(number) for number, times in found) or "0"


def count_cells(row: Row) -> Iterator[str]:
    """Yield heads, KV heads, MLPs and layers as found; bold beside those of the module where they differ."""
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


def _counts(rows: Sequence[Row]) -> list[str]:
    """Return the counts of an architecture: of its plain exports the first one whose MLPs were counted."""
    order = ("ts17", "dyn18", "ts14", "dyn23", "ts17raw", "dyn18raw", "ts17half")
    exports = [row for name in order for row in rows if row.variant == name and not row.failed]
    speaker = next((row for row in exports if row.found.blocks is not None), next(iter(exports), None))
    return [""] * 4 if speaker is None else list(count_cells(speaker))


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each architecture; columns of which nothing was measured are left out."""
    cells: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.family, row.case.removesuffix(TWIN)][column(row.variant)].append(row)
    keys = [key for key in COLUMNS if any(key in own for own in cells.values())]
    heads = ["graph", "heads", "KV heads", "MLPs", "layers", *(COLUMNS[key] for key in keys)]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for (_, case), own in sorted(cells.items()):
        counts = _counts([row for some in own.values() for row in some])
        yield f"| {' | '.join([case, *counts, *(cell(own[key]) if key in own else '' for key in keys)])} |"


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many graphs there are, how their cuts ended, and which counts differ."""
    built = [row for row in rows if not row.failed]
    cases, groups = {row.case.removesuffix(TWIN) for row in rows}, {row.family for row in rows}
    yield f"{len(built)} of {len(rows)} graphs of {len(cases)} architectures in {len(groups)} families or packages."
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


def part(title: str, rows: Sequence[Row], measured: Sequence[str]) -> str:
    """Return one set: when it was measured, its table, and what is not as it must be."""
    told = [f"* {line}" for line in (*measured, *summary(rows))]
    wrong = {f"* {row.case}: {row.reason}" if row.reason else f"* {row}" for row in rows if row.problems}
    ends = ["\n### Not as it must be\n", *sorted(wrong)] if wrong else []
    return "\n".join([f"## {title}\n", *told, "", *table(rows), *ends, ""])


def set_of(row: Row) -> str:
    """Return the set of a row."""
    return (
        "packages"
        if row.package
        else row.family
        if row.family in PAGES["supported-exporters.md"]
        else "families"
    )


def written(page: str, measured: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> str:
    """Return the text of a page, with what stands in front of its tables as it is."""
    own = {name: [row for row in rows if set_of(row) == name] for name in PAGES[page]}
    parts = [part(PAGES[page][name], own[name], measured.get(name, ())) for name in own if own[name]]
    before, mark, after = (DOCS / page).read_text().partition(MARK)
    return before + mark + ("\n".join(parts) or after)


def write(measured: Mapping[str, Sequence[str]], rows: Sequence[Row]) -> None:
    """Write the pages."""
    for page in PAGES:
        (DOCS / page).write_text(written(page, measured, rows))


def keep(path: Path, measured: Mapping[str, Sequence[str]], rows: Iterable[Row]) -> None:
    """Write what `kept` reads."""
    lines = [json.dumps({"measured": measured}), *(row.to_json() for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def kept(path: Path) -> tuple[dict[str, list[str]], list[Row]]:
    """Return sentences about the last measurement, by set, and its rows."""
    first, *lines = path.read_text().splitlines()
    return json.loads(first)["measured"], [Row.from_json(line) for line in lines]


if __name__ == "__main__":
    write(*kept(RESULTS))
