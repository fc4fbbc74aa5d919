"""Measures sets of the zoo and writes their page: ``python -m tests.zoo.measure --out DIR [--sets S,S] [--jobs N]``.

Every set but the families runs in an environment of its own, which is made in DIR: some packages want versions of their
own, and together they take 3 GB. Exports lie in DIR, and rows in a file there: what is in it is not measured again.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from tests.zoo.pages import RESULTS, keep, kept, write
from tests.zoo.row import Row

ROOT = Path(__file__).parents[2]
TORCH = ("torch<=2.13.0", "torchvision", "timm")
TOOLS = ("onnx", "onnxruntime", "onnxruntime-gpu", "torch", "transformers", "timm", "onnxslim", "onnxsim")


@dataclass(frozen=True)
class Set:
    """What is measured together.

    Attributes:
        table: the module, and its function, that lists the rows.
        variants: that are measured unless others are named.
        packages: of the environment, as pip takes them; none for the one that runs this.
        alone: those that are installed without what they ask for: torchaudio asks for torch's CUDA build,
            torchscale for a timm of 2023.
        extra: of this project, in the environment.
    """

    table: str
    variants: str = ""
    packages: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    extra: str = ""


SETS = {
    "families": Set("tables:families", "sample"),
    "packages": Set(
        *("tables:packages", "quick", TORCH),
        extra="[wild]",
        alone=("torchaudio>=2.8,<3", "torchscale>=0.3,<1"),
    ),
    "optimum": Set(
        "foreign.optimum:rows",
        packages=(*TORCH, "optimum-onnx", "transformers==4.57.*", "onnxslim", "onnxsim", "onnxoptimizer"),
    ),
    "genai": Set(
        "foreign.genai:rows", packages=(*TORCH, "onnxruntime-genai", "onnx-ir", "transformers", "tokenizers")
    ),
    "jax": Set("foreign.jax_models:rows", packages=(*TORCH, "jax2onnx", "jax[cpu]", "flax", "transformers")),
    "keras": Set(
        "foreign.keras_models:rows", packages=(*TORCH, "tensorflow-cpu", "tf2onnx", "keras", "transformers")
    ),
}


def python_of(name: str, out: Path) -> Path:
    """Return the interpreter of a set, whose environment is made unless it is there.

    Raises:
        subprocess.CalledProcessError: a package cannot be installed.
    """
    own = SETS[name]
    if not own.packages:
        return Path(sys.executable)
    folder = out / f"environment-{name}"
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        venv.create(folder, with_pip=True)
        # torch first, so that a build for the CPU that lies at hand is taken and stays.
        for words in (TORCH, ("--editable", f"{ROOT}{own.extra}", *own.packages), ("--no-deps", *own.alone)):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *words], check=True)
        for library in folder.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
            library.unlink()  # linked with CUDA; without it, torchaudio's models are plain Python
        done.touch()
    return python


def names_of(name: str, only: str) -> list[str]:
    """Return the rows of a set that fit one of some shell patterns, which commas join."""
    return [row for row in _table(name) if any(fnmatchcase(row, pattern) for pattern in only.split(","))]


def _table(name: str) -> Mapping[str, object]:
    module, _, function = SETS[name].table.partition(":")
    listed = getattr(import_module(f"tests.zoo.{module}"), function)()
    return listed if isinstance(listed, Mapping) else {case.name: case for case in listed}


def rows_of(task: tuple[str, str, str, Path]) -> list[Row]:
    """Return the rows of one architecture: of a set, the name, its variants, and where exports lie."""
    from tests.zoo.build import NotBuiltError, Original, reason
    from tests.zoo.check import check
    from tests.zoo.foreign.exported import Exported
    from tests.zoo.tables import variants_of

    name, own, variants, out = task
    listed = _table(name)[own]
    if isinstance(listed, Exported):
        return list(listed.rows(variants_of(variants) if variants else [], out))
    case, asked = listed, variants_of(variants)
    try:
        original = Original(case, out)
    except Exception as problem:  # a package is missing, or has changed
        row = Row(case.name, "", case.family, bool(case.package), case.expect)
        told = str(problem) if isinstance(problem, NotBuiltError) else reason(problem)
        return [replace(row, variant=variant, failed=told) for variant in asked]
    rows = [check(original, variant) for variant in asked if not _is_twin(case.name, variant)]
    # Of a package there should be a graph; a step of the zoo's own may not apply.
    return [row for row in rows if case.package or not row.failed]


def _is_twin(case: str, variant: str) -> bool:
    """Whether an attention twin is in a variant other than a plain export, which is where they differ."""
    return case.endswith("-sdpa") and "+" in variant


def measured(name: str, options: argparse.Namespace) -> list[Row]:
    """Return the rows of a set in this environment, in order."""
    file = options.out / f"{name}.jsonl"
    known = [Row.from_json(line) for line in file.read_text().splitlines()] if file.exists() else []
    asked, done = names_of(name, options.only), {row.case for row in known}
    variants = options.variants or SETS[name].variants
    tasks = [(name, own, variants, options.out / name) for own in asked if own not in done]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Forked processes would share ONNX Runtime's threads.
    with get_context("spawn").Pool(options.jobs) as pool, file.open("a") as stream:
        for rows in pool.imap_unordered(rows_of, tasks):
            known += rows
            stream.writelines(f"{row.to_json()}\n" for row in rows)
            stream.flush()
            sys.stderr.writelines(f"{row}\n" for row in rows if row.problems)
    return known


def header(rows: Iterable[Row]) -> str:
    """Return when rows were measured, and with which versions."""
    from tests.zoo.build import versions

    packages = sorted({row.family for row in rows if row.package})
    tools = ", ".join(
        f"{name} {number}" for name, number in versions(dict.fromkeys((*TOOLS, *packages))).items()
    )
    return f"Measured on {datetime.date.today().isoformat()} with {tools}."


def merged(before: Iterable[Row], after: Iterable[Row]) -> list[Row]:
    """Return rows with newer ones in place of their own."""
    rows = {(row.package, row.name): row for row in (*before, *after)}
    return sorted(rows.values(), key=lambda row: (row.package, row.family, row.case, row.variant))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 where a row is not as it must be and `KNOWN` does not name it."""
    parser = argparse.ArgumentParser(prog="tests.zoo.measure", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for exports, rows and environments")
    parser.add_argument("--sets", default="families,packages", help=f"of {', '.join(SETS)}")
    parser.add_argument("--only", default="*", help="shell pattern of case names; commas join")
    parser.add_argument("--variants", default="", help="quick, sample, all, or names joined by commas")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--here", action="store_true", help="measure one set in this environment, and write no page"
    )
    options = parser.parse_args(arguments)
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    names = options.sets.split(",")
    if options.here:
        rows = measured(names[0], options)
        keep(options.out / f"{names[0]}.measured", {names[0]: [header(rows)]}, rows)
        return 0
    said, before = kept(RESULTS)
    new = list[Row]()
    for name in names:
        words = ["--out", options.out, "--sets", name, "--only", options.only, "--variants", options.variants]
        command = [
            python_of(name, options.out),
            "-m",
            "tests.zoo.measure",
            "--here",
            *words,
            "--jobs",
            options.jobs,
        ]
        subprocess.run([*map(str, command)], cwd=ROOT, check=True)
        told, rows = kept(options.out / f"{name}.measured")
        said, new = said | told, new + rows
    keep(RESULTS, said, merged(before, new))
    write(*kept(RESULTS))
    return int(any(row.problems and row.reason is None for row in new))


if __name__ == "__main__":
    sys.exit(main())
