"""Measures the zoo and writes its page: ``python -m tests.zoo.measure --work DIR [--parts P,P] [--jobs N]``.

Exports what DIR lacks, checks every folder, and keeps the rows beside this file. Packages get an environment of their
own there, with the extra ``wild`` of pyproject.toml: some want versions of their own, and together they take 3 GB. With
``--zoo DIR`` folders are checked that were built before, as those of `tests.zoo.foreign` are.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from tests.zoo.folder import Folder
from tests.zoo.known import reason_for
from tests.zoo.pages import INTRODUCTION, PAGE, RESULTS, SAMPLE, SETS, TWIN, keep, kept, part, write
from tests.zoo.row import Row

ROOT = Path(__file__).parents[2]
TORCH = ("torch<=2.13.0", "torchvision")
ALONE = ("torchaudio>=2.8,<3", "torchscale>=0.3,<1")
"""Without what they ask for: torchaudio asks for torch's CUDA build, torchscale for a timm of 2023."""
TOOLS = ("onnx", "onnxruntime", "onnxruntime-gpu", "torch", "transformers", "timm", "onnxslim", "onnxsim")


def environment(folder: Path) -> Path:
    """Makes the environment of the packages unless it is there, and returns its interpreter.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed.
    """
    python, done = folder / "bin" / "python", folder / "done"
    if done.exists():
        return python
    venv.create(folder, with_pip=True)
    # torch first, so that a build for the CPU that lies at hand is taken and stays.
    for arguments in (TORCH, ("--editable", f"{ROOT}[wild]"), ("--no-deps", *ALONE)):
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)
    for library in folder.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
        library.unlink()  # linked with CUDA; without it, torchaudio's models are plain Python
    done.touch()
    return python


def build(part: str, work: Path) -> Path:
    """Exports what is not there yet, and returns where it lies."""
    out = work / part
    command = [sys.executable, "-m", "tests.zoo.build", "--out", str(out), "--variants", ",".join(SAMPLE)]
    if part == "packages":
        python = str(environment(work / "environment"))
        command = [python, *command[1:-1], "quick", "--packages"]
    subprocess.run(command, cwd=ROOT, check=True)
    return out


def chosen(zoo: Path) -> list[Path]:
    """The folders of a zoo; of the attention twins only the plain exports, which is where they differ."""
    folders = (path for path in sorted(zoo.iterdir()) if (path / "case.json").exists())
    return [path for path in folders if not (path.name.partition(".")[0].endswith(TWIN) and "+" in path.name)]


def _check(path: Path) -> Row:
    from tests.zoo.check import check
    from tests.zoo.originals import references

    return check(path, references)


def measured(folders: Sequence[Path], known: Path, jobs: int) -> list[Row]:
    """The rows of folders in order; those without a graph are left out, but for packages, which should have one.

    Args:
        folders: what is checked.
        known: a file of rows, one a line: what is in it is not checked again, and each new row is added.
        jobs: number of processes.
    """
    rows = (
        {row.name: row for row in map(Row.from_json, known.read_text().splitlines())}
        if known.exists()
        else {}
    )
    missing = [
        path for path in folders if path.name not in rows and (Folder.is_built(path) or _is_package(path))
    ]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Forked processes would share ONNX Runtime's threads.
    with get_context("spawn").Pool(jobs) as pool, known.open("a") as file:
        for done, row in enumerate(pool.imap_unordered(_check, missing, chunksize=2), start=1):
            rows[row.name] = row
            file.write(f"{row.to_json()}\n")
            file.flush()
            if row.problems or done % 250 == 0:
                sys.stderr.write(f"[{done}/{len(missing)}] {row}\n")
    return [rows[path.name] for path in folders if path.name in rows]


def _is_package(path: Path) -> bool:
    return bool(json.loads((path / "case.json").read_text())["package"])


def header(zoo: Path) -> str:
    """When a zoo is measured, and with which versions."""
    from tests.zoo.build import installed

    noted = zoo / "versions.json"
    versions = json.loads(noted.read_text()) if noted.exists() else installed(TOOLS)
    tools = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Measured on {datetime.date.today().isoformat()} with {tools}."


def places(options: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """A set of exports, and its folder."""
    if options.zoo is not None:
        yield from ((options.parts.split(",")[0], Path(zoo)) for zoo in options.zoo.split(","))
        return
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    yield from ((part, build(part, work)) for part in options.parts.split(","))


def merged(before: Iterable[Row], after: Iterable[Row]) -> list[Row]:
    """Rows with newer ones in place of their own; kinds that were not measured again stay."""
    rows = {(row.package, row.name): row for row in before}
    for row in after:
        old = rows.get((row.package, row.name), row)
        rows[row.package, row.name] = replace(row, verdicts={**old.verdicts, **row.verdicts})
    return sorted(rows.values(), key=lambda row: (row.package, row.family, row.case, row.variant))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 1 where a row is not as it must be and `known.py` does not name it."""
    parser = argparse.ArgumentParser(prog="tests.zoo.measure", description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for the exports and the environment")
    parser.add_argument("--zoo", help="folders that were built before, joined by commas")
    parser.add_argument("--parts", default=",".join(SETS), help="families, packages, or both")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the rows are kept")
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="the page")
    parser.add_argument("--title", help="of a page of its own, with nothing but the rows of --zoo")
    parser.add_argument("--jobs", type=int, default=1, help="processes that check")
    options = parser.parse_args(arguments)
    if (options.work is None) == (options.zoo is None):
        parser.error("one of --work and --zoo says where the folders are")
    said, rows = kept(options.results) if options.results.exists() else ({}, [])
    new: list[Row] = []
    for name, folder in places(options):
        new += measured(chosen(folder), folder / "rows.jsonl", options.jobs)
        said[name] = [header(folder)]
    keep(options.results, said, merged(rows, new))
    if options.title:
        front = INTRODUCTION.partition("\n")[2]
        options.output.write_text(
            f"# {options.title}\n{front}\n{part('Graphs', new, [line for lines in said.values() for line in lines])}"
        )
    else:
        write(options.output, merged(rows, new), said)
    return int(any(row.problems and reason_for(row) is None for row in new))


if __name__ == "__main__":
    sys.exit(main())
