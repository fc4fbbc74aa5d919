"""Writes the part of the page on neurons and layers: ``python -m tests.zoo.units.table --zoo DIR -o PAGE``.

Without ``--zoo`` the part is written again from the rows that were kept. The rest of the page stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.zoo.columns import COLUMNS, SAMPLE
from tests.zoo.kept import keep, kept, measured_today
from tests.zoo.parts import write_part
from tests.zoo.row import Outcome
from tests.zoo.table import Footnotes, architectures, chosen, grid, versions
from tests.zoo.units.cuts import KINDS
from tests.zoo.units.row import UnitRow, Verdict

ROWS = Path(__file__).with_name("rows.jsonl")
"""The rows of the last measurement; its first line says when and with which versions."""
PART = "units"

INTRO = """## Neurons and layers

The same graphs without neurons and without layers. Of the feed-forward blocks that are found, the same third of each
goes, another half of each, and all of one; of the layers the last one, and every second one. A removed layer is the
identity between two states of its residual stream. Each cut must do fewer operations than the original, and equal
PyTorch, where the columns that read these units are zero in the module and removed layers are the identity, or the
masked reference: where numbers are quantized or half as long, or a map is not stored as the module has it.
"""
LEGEND = """
| cell | meaning |
|---|---|
| `exact` | the units go, and what is left equals the silenced model |
| `exact / gather 2` | the first word is for neurons, the second for layers, where the two differ |
| `gather`, numbers, **bold** | as above; a number beside `exact` says why some blocks or layers stay |
| `none` | there is no feed-forward block in the graph |
| an empty cell | no graph, as above, or none that was measured |
"""


def cell(rows: Sequence[UnitRow], notes: Footnotes) -> str:
    """One cell: the worst outcome of its rows, for neurons and for layers."""
    if not rows:
        return ""
    measured = [[row.verdicts[kind] for row in rows if kind in row.verdicts] for kind in KINDS]
    return " / ".join(dict.fromkeys(_word(verdicts, notes) for verdicts in measured if verdicts))


def _word(verdicts: Sequence[Verdict], notes: Footnotes) -> str:
    failures = sorted({verdict.outcome for verdict in verdicts if verdict.outcome.is_failure})
    if failures:
        return f"**{', '.join(failures)}**"
    outcomes, marks = {verdict.outcome for verdict in verdicts}, notes.mark(verdicts)
    if Outcome.GATHERS in outcomes:
        return f"gather {marks}"
    if Outcome.EXACT in outcomes:
        return f"exact {marks}".rstrip()
    return "none" if outcomes == {Outcome.NO_SITE} else marks


def part(rows: Sequence[UnitRow], header: str) -> str:
    """The whole part of the page.

    Args:
        rows: what was checked.
        header: a sentence about the run.
    """
    notes = Footnotes()
    lines = grid(rows, COLUMNS, lambda some: cell(some, notes))
    parts = [INTRO, f"* {header}", *(f"* {line}" for line in summary(rows)), LEGEND, *lines]
    parts += ["\n### Reasons for neurons and layers\n", str(notes)]
    failures = [
        f"* {row.name}, {kind}: {verdict.outcome}: {verdict.words}"
        for row in rows
        for kind, verdict in row.failures.items()
    ]
    if failures:
        parts += ["\n### Neurons and layers that are not as they must be\n", *failures]
    return "\n".join(parts) + "\n"


def summary(rows: Sequence[UnitRow]) -> Iterator[str]:
    """Sentences that count."""
    yield f"{len(rows)} graphs of {len(architectures(rows))} architectures."
    for kind in KINDS:
        verdicts = [row.verdicts[kind] for row in rows if kind in row.verdicts]
        if not verdicts:
            yield f"{kind.capitalize()}: not measured with this version."
            continue
        counts = Counter(verdict.outcome for verdict in verdicts)
        told = ", ".join(
            f"{counts[outcome]} {'with none' if outcome is Outcome.NO_SITE else outcome}"
            for outcome in Outcome
            if counts[outcome]
        )
        cuts, torch = (sum(getattr(verdict, name) for verdict in verdicts) for name in ("cuts", "torch"))
        yield f"{kind.capitalize()}: {told}; {cuts} cuts are equal, {torch} of them to PyTorch."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="tests.zoo.units.table", description=__doc__)
    parser.add_argument("--zoo", type=Path, help="a folder that tests.zoo.build wrote")
    parser.add_argument("--known", type=Path, help="file of rows: what is in it is not checked again")
    parser.add_argument("--variants", default=",".join(SAMPLE), help="the sample, comma-separated")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the page")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where the rows are kept")
    options = parser.parse_args(arguments)
    if options.zoo is not None:
        from tests.zoo.units.collect import collect  # imports torch

        rows = collect(chosen(options.zoo, options.variants.split(",")), options.known)
        keep(options.rows, measured_today(versions()), rows)
    header, rows = kept(options.rows, UnitRow.from_json)
    write_part(options.output, PART, part(rows, header))
    return 1 if any(row.failures for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
