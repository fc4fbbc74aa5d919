"""Writes the part of the page on counts: ``python -m tests.zoo.counts.table --zoo DIR,DIR -o PAGE``.

Without ``--zoo`` the part is written again from the rows that were kept. The rest of the page stays as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from tests.zoo.analysed import Analysed, told
from tests.zoo.counts.known import KNOWN
from tests.zoo.counts.row import CountRow, Counts, found_counts
from tests.zoo.folder import Folder
from tests.zoo.kept import keep, kept, measured_today
from tests.zoo.match import by_weight, match_sites
from tests.zoo.parts import write_part
from tests.zoo.table import versions

ROWS = Path(__file__).with_name("rows.jsonl")
"""The rows of the last measurement; its first line says when and with which versions."""
PART = "counts"
TWIN = "-sdpa"

INTRO = """## Heads, KV heads, blocks and layers

What `inspect` counts in each graph, compared with the attributes of the module that it was exported from: the numbers
of heads and of key/value heads, the lengths of the containers of layers, and the modules that are MLPs. Where a
module's attributes tell nothing, the cell shows only what is found, with a question mark.
"""
LEGEND = """
| column | meaning |
|---|---|
| heads, kv | of each attention, in order; `3 x2` are two with three heads, `?` unknown sharing of keys and values |
| MLPs | feed-forward blocks |
| others | blocks of other kinds |
| layers | of each stack that holds attention |
| `-` | an attention that is no site: the reasons stand above |
| **bold** | found, and the number of the module behind it |
"""


def check(path: Path) -> CountRow:
    """Compare what is found in one folder with what its module has; never raises for what the engine does."""
    folder = Folder(path)
    case = folder.case
    cores = [item for item in folder.projections if item["tied_to"] is None]
    true = Counts(
        tuple(item["num_heads"] for item in cores),
        tuple(item["kv_num_heads"] for item in cores),
        None if case["counts"]["layers"] is None else tuple(case["counts"]["layers"]),
        case["counts"]["blocks"],
    )
    nothing = Counts((None,) * len(cores), (None,) * len(cores))
    row = CountRow(case["name"], case["variant"], case["family"], true, nothing)
    try:
        sites = Analysed(folder).sites
        matched = match_sites(sites, folder.projections, folder.weights) or by_weight(sites, folder.weights)
        own = [matched.get(place) for place, item in enumerate(folder.projections) if item["tied_to"] is None]
        found, kinds = found_counts(sites, own)
    except Exception as problem:  # whatever the engine raises is the finding
        return replace(row, error=told(problem))
    return replace(row, found=found, kinds=kinds)


def runs(numbers: Sequence[object]) -> str:
    """Return numbers with runs of the same one shortened: "1, 3 x2"."""
    found = [(number, len(list(run))) for number, run in groupby(numbers)]
    return ", ".join(f"{number} x{times}" if times > 1 else str(number) for number, times in found) or "0"


def cells(row: CountRow) -> Iterator[str]:
    """Yield the cells of a row."""
    if row.error:
        yield f"**{row.error}**"
        return

    def cell(name: str, found: Sequence[object], true: Sequence[object] | None) -> str:
        text = runs(found)
        if name in row.wrong:
            return f"**{text} ({runs(true or ())})**"
        return f"{text} ?" if true is None else text

    known = [site is not None for site in row.found.heads]
    yield cell("heads", ["-" if number is None else number for number in row.found.heads], row.true.heads)
    kv = [number or ("?" if there else "-") for number, there in zip(row.found.kv, known, strict=True)]
    yield cell("kv", kv, row.true.kv)
    blocks = row.true.blocks
    yield cell("blocks", [row.found.blocks or 0], None if blocks is None else [blocks])
    yield ", ".join(f"{number} {kind}" for kind, number in row.kinds.items() if kind != "feed-forward")
    yield cell("layers", row.found.layers or (), row.true.layers)


def part(rows: Sequence[CountRow], header: str) -> str:
    """Return the whole part of the page.

    Args:
        rows: what was checked.
        header: a sentence about the run.
    """
    lines = ["| graph | heads | kv | MLPs | others | layers |", "|---|---|---|---|---|---|"]
    lines += [f"| {row.name} | {' | '.join(cells(row))} |" for row in rows]
    parts = [INTRO, f"* {header}", *(f"* {line}" for line in summary(rows)), LEGEND, *lines]
    if named := [f"* {row.name}: {why}" for row in rows if (why := KNOWN.get(row.case))]:
        parts += ["\n### Counts that differ, and why\n", *named]
    return "\n".join(parts) + "\n"


def summary(rows: Sequence[CountRow]) -> Iterator[str]:
    """Yield sentences that count."""
    yield f"{len(rows)} graphs of {len({row.case for row in rows})} architectures."
    pairs: dict[str, Callable[[CountRow], bool]] = {
        "heads": lambda row: bool(row.true.heads),
        "kv": lambda row: bool(row.true.kv),
        "blocks": lambda row: row.true.blocks is not None,
        "layers": lambda row: row.true.layers is not None,
    }
    for name, is_known in pairs.items():
        compared = [row for row in rows if is_known(row)]
        wrong = sum(name in row.wrong for row in compared)
        yield f"{name}: compared in {len(compared)} graphs, {wrong} differ."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where a count is wrong and not named."""
    parser = argparse.ArgumentParser(prog="tests.zoo.counts.table", description=__doc__)
    parser.add_argument(
        "--zoo", help="folders that tests.zoo.build and tests.zoo.wild.build wrote, joined by commas"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the page")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where the rows are kept")
    options = parser.parse_args(arguments)
    if options.zoo is not None:
        folders = [path for zoo in options.zoo.split(",") for path in sorted(Path(zoo).iterdir())]
        plain = [
            path
            for path in folders
            if Folder.is_built(path) and "+" not in path.name and TWIN not in path.name
        ]
        rows = []
        for path in plain:
            rows.append(check(path))
            if rows[-1].wrong or rows[-1].error:
                sys.stderr.write(f"{rows[-1].name}: {' | '.join(cells(rows[-1]))}\n")
        keep(options.rows, measured_today(versions()), rows)
    header, rows = kept(options.rows, CountRow.from_json)
    write_part(options.output, PART, part(rows, header))
    return 1 if any((row.wrong or row.error) and row.case not in KNOWN for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
