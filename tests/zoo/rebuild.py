"""Rebuilds docs/supported-graphs.md: ``python -m tests.zoo.rebuild --work DIR [--parts zoo,units,wild,counts]``.

A part that is not named stays as it is. What DIR holds from an earlier run is used again; a whole run takes some
six hours on two cores, the wild part one and a half of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.zoo.columns import SAMPLE
from tests.zoo.wild import environment

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "supported-graphs.md"
PARTS = ("zoo", "units", "wild", "counts")


def commands(part: str, work: Path, jobs: int) -> Iterator[list[str]]:
    """What to run for a part, in order."""
    if part == "counts":
        both = f"{work / 'zoo'},{work / 'wild'}"
        yield [sys.executable, "-m", "tests.zoo.counts.table", "--zoo", both, "-o", str(PAGE)]
        return
    zoo, here = work / ("wild" if part == "wild" else "zoo"), sys.executable
    if part in ("zoo", "units"):
        yield [here, "-m", "tests.zoo.build", "--out", str(zoo), "--variants", ",".join(SAMPLE)]
    if part == "units":
        known = ["--known", str(work / "unit-rows.jsonl")]
        yield [here, "-m", "tests.zoo.units.table", "--zoo", str(zoo), "-o", str(PAGE), *known]
        return
    if part == "zoo":
        rows = ["--rows", str(work / "zoo-rows.jsonl")]
        yield [here, "-m", "tests.zoo.table", "--zoo", str(zoo), "-o", str(PAGE), "--jobs", str(jobs), *rows]
        return
    python = str(environment.make(work / "wild-env"))
    yield [python, "-m", "tests.zoo.wild.build", "--out", str(zoo)]
    yield [here, "-m", "tests.zoo.wild.table", "--zoo", str(zoo), "-o", str(PAGE), "--jobs", str(jobs)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 1 where a row is not as it must be."""
    parser = argparse.ArgumentParser(prog="tests.zoo.rebuild", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the exports and the environment")
    parser.add_argument(
        "--parts", default=",".join(PARTS), help="some of zoo, units, wild and counts, joined by commas"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes that check")
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}: {', '.join(PARTS)}")
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    codes = [
        subprocess.run(run, cwd=ROOT).returncode
        for part in parts
        for run in commands(part, work, options.jobs)
    ]
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
