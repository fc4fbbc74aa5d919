"""Writes the wild part of the page: ``python -m tests.zoo.wild.table --zoo DIR -o docs/supported-graphs.md``.

Without ``--zoo`` the part is written again from the rows that were kept. The rest of the page stays as it is.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

from tests.zoo.kept import keep, kept, measured_today
from tests.zoo.parts import write_part
from tests.zoo.wild.check import check
from tests.zoo.wild.known import reason_for
from tests.zoo.wild.row import WildRow

ROWS = Path(__file__).with_name("rows.jsonl")
"""The rows of the last measurement; its first line says when and with which versions."""
TITLES = {"ts17": "TorchScript", "dyn18": "dynamo"}

INTRO = """## Packages in the wild

Models of packages that are not ours, built by name with tiny random configurations and exported as they are. The true
numbers of heads come from the modules' own attributes, never from the tool. Every attention is cut alone and together
with all others, and each cut is compared with PyTorch, where the same columns of the output projections are zeroed.
"""
LEGEND = """
| cell | meaning |
|---|---|
| `2, 5 cuts` | 2 attentions found, all that there are, with the true numbers of heads; 5 cuts equal to PyTorch |
| `1 of 2` | one of two attentions is found; the numbers say why the other one is not |
| a number in brackets | a reason, at the end: of a refusal, of a near miss, or what the exporter said |
| `-` | no export; an empty cell was not measured |
| **bold** | wrong heads, a site that is no attention, an attention without a word, or an unequal cut |
"""


class _Notes:
    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, sentences: Iterable[str]) -> str:
        """The numbers of sentences: " [1,4]", or nothing."""
        found = sorted(self.numbers.setdefault(text, len(self.numbers) + 1) for text in sentences)
        return f" [{','.join(map(str, found))}]" if found else ""


def cell(row: WildRow | None, notes: _Notes) -> str:
    """One cell."""
    if row is None:
        return ""
    if row.failed:
        return f"-{notes.mark([f'no export: {row.failed}'])}"
    if row.detail and not row.true:
        return f"**{row.detail.partition(':')[0]}**{notes.mark([f'error: {row.detail}'])}"
    count = len(row.true)
    words = [str(count) if row.found == count else f"{row.found} of {count}"]
    if row.compared:
        words.append(
            f"{row.equal} cuts" if row.equal == row.compared else f"**{row.equal} of {row.compared} cuts**"
        )
    if any(heads not in (None, true) for heads, true in zip(row.heads, row.true, strict=True)):
        words.append(f"**heads {', '.join(str(heads) for heads in row.heads)}**")
    if row.extra:
        words.append(f"**{row.extra} no attention**")
    if row.silent:
        words.append(f"**{row.silent} without a word**")
    sentences = [f"refused: {text}" for text in row.refusals] + [f"near miss: {text}" for text in row.misses]
    return ", ".join(words) + notes.mark(sentences)


def heads(true: Sequence[int]) -> str:
    """Numbers of heads, runs of the same one shortened: "1, 3 x2"."""
    runs = [(number, len(list(run))) for number, run in groupby(true)]
    return ", ".join(f"{number} x{times}" if times > 1 else str(number) for number, times in runs)


def part(rows: Sequence[WildRow], header: str) -> str:
    """The whole part of the page."""
    cells: dict[tuple[str, str], dict[str, WildRow]] = defaultdict(dict)
    for row in rows:
        cells[row.package, row.case][row.variant] = row
    notes = _Notes()
    lines = [f"| graph | heads | {' | '.join(TITLES.values())} |", "|---|---|---|---|"]
    for (_, case), found in sorted(cells.items()):
        true = max((row.true for row in found.values()), key=len)
        entries = " | ".join(cell(found.get(variant), notes) for variant in TITLES)
        lines.append(f"| {case} | {heads(true)} | {entries} |")
    # What an exporter says may look like a link.
    reasons = [f"{number}. {text}".replace("[", r"\[") for text, number in notes.numbers.items()]
    known = sorted(
        {f"{row.case}: {why}" for row in rows if row.is_short and (why := reason_for(row)) is not None}
    )
    parts = [INTRO, f"* {header}", *(f"* {line}" for line in summary(rows)), LEGEND, *lines]
    if known:
        parts += ["\n### Known not to be as it should\n", *(f"* {line}" for line in known)]
    if failures := [row for row in rows if row.is_short and reason_for(row) is None]:
        parts += ["\n### Not as it must be\n", *(f"* {row.name}: {row.words}" for row in failures)]
    return "\n".join([*parts, "\n### Reasons in the wild\n", *reasons]) + "\n"


def summary(rows: Sequence[WildRow]) -> Iterator[str]:
    """Sentences that count."""
    built = [row for row in rows if not row.failed]
    yield (
        f"{len(built)} exports of {len({row.case for row in built})} architectures of "
        f"{len({row.package for row in built})} packages reached the tool; {len(rows) - len(built)} could not be made."
    )
    yield (
        f"{sum(row.found for row in built)} of {sum(len(row.true) for row in built)} attentions are sites, "
        f"{sum(row.wrong_heads for row in built)} exports show a wrong number of heads or a site that is none, "
        f"{sum(row.silent for row in built)} attentions are overlooked without a word."
    )
    compared = sum(row.compared for row in built)
    yield f"{sum(row.equal for row in built)} of {compared} cuts equal PyTorch."


def measured(zoo: Path, jobs: int, only: str = "*") -> list[WildRow]:
    """Checks the folders whose name fits one of some shell patterns that commas join."""
    patterns = only.split(",")
    folders = sorted(
        path
        for path in zoo.iterdir()
        if path.is_dir() and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
    )
    if jobs == 1:
        return [check(folder) for folder in folders]
    with get_context("spawn").Pool(jobs) as pool:  # forked processes would share ONNX Runtime's threads
        return pool.map(check, folders, chunksize=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="tests.zoo.wild.table", description=__doc__)
    parser.add_argument("--zoo", type=Path, help="a folder that tests.zoo.wild.build wrote")
    parser.add_argument("--only", default="*", help="shell pattern of folders; the rows of others are kept")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the page")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where the rows are kept")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args(arguments)
    if options.zoo is not None:
        versions = json.loads((options.zoo / "versions.json").read_text())
        rows = measured(options.zoo, options.jobs, options.only)
        if options.only != "*":
            _, before = kept(options.rows, WildRow.from_json)
            known = {row.name: row for row in (*before, *rows)}
            rows = [known[name] for name in sorted(known)]
        keep(options.rows, measured_today(versions), rows)
    header, rows = kept(options.rows, WildRow.from_json)
    write_part(options.output, "wild", part(rows, header))
    return 1 if any(row.is_short and reason_for(row) is None for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
