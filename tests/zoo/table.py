"""Writes the page of supported graphs: ``python -m tests.zoo.table --zoo DIR -o docs/supported-graphs.md``.

A row per architecture, a column per kind of graph, footnotes for every reason. Nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from tests.zoo.collect import collect
from tests.zoo.columns import COLUMNS, FOREIGN, SAMPLE, column
from tests.zoo.folder import Folder
from tests.zoo.kept import measured_today
from tests.zoo.parts import FIRST, write_part
from tests.zoo.row import Outcome, Row

TWIN = "-sdpa"
PACKAGES = ("onnx", "onnxruntime", "onnxruntime-gpu", "torch", "transformers", "timm", "onnxslim", "onnxsim")
GATHER, REFUSAL = "edge gather", "refused"

INTRO = """# Supported graphs

Written by `python -m tests.zoo.table`; do not edit. Every cell is measured: tiny models with random weights
are exported, pruned with several head sets (the same heads in every layer, different ones, one head left,
half, all heads of one block; for grouped queries also query heads alone) and compared with PyTorch, where the
same heads are silenced. Quantized graphs are compared with the masked reference in ONNX Runtime. With a
cache, past and present are narrowed, and eight decoding steps must give what one pass gives.
"""

LEGEND = """
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


class Explained(Protocol):
    """What has reasons: a row, or one verdict of it."""

    @property
    def gathers(self) -> tuple[str, ...]:
        """Why edge gathers are needed."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why units cannot go."""


class Footnotes:
    """Numbers for reasons, in order of first use."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def mark(self, rows: Iterable[Explained]) -> str:
        """The numbers of all reasons of some rows: "1,4"."""
        rows = list(rows)
        reasons = {(GATHER, reason) for row in rows for reason in row.gathers}
        reasons |= {(REFUSAL, reason) for row in rows for reason in row.refusals}
        found = [self.numbers.setdefault(reason, len(self.numbers) + 1) for reason in sorted(reasons)]
        return ",".join(str(number) for number in sorted(found))

    def __str__(self) -> str:
        return "\n".join(f"{number}. {kind}: {reason}" for (kind, reason), number in self.numbers.items())


def cell(rows: Sequence[Row], notes: Footnotes) -> str:
    """One cell: the worst outcome of its rows."""
    if not rows:
        return "-"
    failures = sorted({row.outcome for row in rows if row.outcome.is_failure})
    if failures:
        return f"**{', '.join(failures)}**"
    outcomes, marks = {row.outcome for row in rows}, notes.mark(rows)
    if Outcome.GATHERS in outcomes:
        return f"gather {marks}"
    if Outcome.EXACT in outcomes:
        return f"exact {marks}".rstrip()
    return "no site" if Outcome.NO_SITE in outcomes else marks


class Placed(Protocol):
    """What has a place in a table of architectures and kinds of graph."""

    @property
    def case(self) -> str:
        """The architecture."""

    @property
    def variant(self) -> str:
        """The exporter and the steps after it."""

    @property
    def family(self) -> str:
        """What the architecture is one of."""


Measured = TypeVar("Measured", bound=Placed)


def architectures(rows: Iterable[Placed]) -> dict[str, str]:
    """The family of each architecture; its twin with another attention is the same one."""
    return {row.case.removesuffix(TWIN): row.family for row in rows}


def grid(
    rows: Sequence[Measured], titles: Mapping[str, str], word: Callable[[Sequence[Measured]], str]
) -> list[str]:
    """The lines of a table with a row per architecture, family by family, and a column per kind of graph.

    Args:
        rows: what was checked.
        titles: of the columns that there may be, in order. One that was not measured is left out: what stands for
            no graph would say that nothing could be.
        word: of the rows of one cell.
    """
    cells: dict[str, dict[str, list[Measured]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row.case.removesuffix(TWIN)][column(row.variant)].append(row)
    measured = {column(row.variant) for row in rows}
    keys = [key for key in titles if key in measured]
    families = architectures(rows)
    lines = [f"| graph | {' | '.join(titles[key] for key in keys)} |", f"|---|{'---|' * len(keys)}"]
    lines += [
        f"| {case} | {' | '.join(word(cells[case][key]) for key in keys)} |"
        for case in sorted(cells, key=lambda name: (families[name], name))
    ]
    return lines


def page(rows: Sequence[Row], built: int, header: Sequence[str]) -> str:
    """The whole page.

    Args:
        rows: what was checked.
        built: number of folders that could have been.
        header: sentences about the run.
    """
    notes = Footnotes()
    lines = grid(rows, FOREIGN | COLUMNS, lambda some: cell(some, notes))
    failures = _failures(rows)
    counts = Counter(row.outcome for row in rows)
    counted = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    steps = sum(row.steps for row in rows)
    graphs = f"{len(rows)} of {built} graphs of {len(architectures(rows))} architectures"
    summary = [*header, f"{graphs}: {counted}; {steps} with decoding steps."]
    parts = [INTRO, *(f"* {line}" for line in summary), LEGEND, *lines, "\n## Reasons\n", str(notes)]
    if failures:
        parts += ["\n## Not as it must be\n", *(f"* {line}" for line in failures)]
    return "\n".join(parts) + "\n"


def _failures(rows: Iterable[Row]) -> list[str]:
    """A sentence per architecture and kind of failure, with the first graph's words."""
    found: dict[tuple[str, Outcome], list[Row]] = defaultdict(list)
    for row in rows:
        if row.outcome.is_failure:
            found[row.case, row.outcome].append(row)
    return [
        f"{case}: {outcome} as {', '.join(row.variant for row in group)}: {group[0].words}"
        for (case, outcome), group in found.items()
    ]


def versions() -> Mapping[str, str]:
    """What is installed of the packages that shape the graphs."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def chosen(zoo: Path, variants: Sequence[str]) -> list[Path]:
    """The folders of some variants; of the attention twins only the plain exports, which is where they differ."""
    folders = [path for path in sorted(zoo.iterdir()) if path.is_dir() and "." in path.name]
    names = set(variants)
    return [
        path
        for path in folders
        for case, _, variant in [path.name.partition(".")]
        if variant in names and (not case.endswith(TWIN) or "+" not in variant)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="tests.zoo.table", description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True, help="a folder that tests.zoo.build wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the page")
    parser.add_argument("--rows", type=Path, help="file of rows: what is in it is not checked again")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--all", action="store_true", help="every variant, not the sample that fills the columns"
    )
    parser.add_argument("--variants", default=",".join(SAMPLE), help="the sample, comma-separated")
    parser.add_argument("--only", help="every variant of the cases that fit these shell patterns")
    options = parser.parse_args(arguments)
    sample = tuple(options.variants.split(","))
    patterns = (options.only or "*").split(",")
    folders = [
        path
        for path in sorted(options.zoo.iterdir())
        if path.is_dir() and any(fnmatch.fnmatchcase(path.name, f"{pattern}.*") for pattern in patterns)
    ]
    every = options.all or options.only
    selected = folders if every else chosen(options.zoo, sample)
    rows = collect(selected, options.rows, options.jobs)
    scope = f"Every graph of {options.only or 'the zoo'}."
    if not every:
        scope = f"A sample of the zoo: {', '.join(sample)}; of SDPA twins the plain exports only."
    header = [measured_today(versions()), scope]
    built = sum(Folder.is_built(path) for path in folders)
    text = page(rows, built, header)
    if options.only:
        text = text.replace("# Supported graphs", "# Supported graphs of other exporters", 1)
    write_part(options.output, FIRST, text)
    return 1 if any(row.outcome.is_failure for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
