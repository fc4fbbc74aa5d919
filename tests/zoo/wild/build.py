"""Writes the wild part of the zoo: ``python -m tests.zoo.wild.build --out DIR [--only GLOB] [--variants V,V]``.

Runs in the environment of `tests.zoo.wild.environment`. Folders are those of `tests.zoo.build`.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import nn

from tests.zoo.build import Workshop, reason, settle_torch
from tests.zoo.case import Case
from tests.zoo.quiet import quiet, time_limit
from tests.zoo.reference import Arrays, make
from tests.zoo.restructure import NotApplicableError
from tests.zoo.wild.case import Wild
from tests.zoo.wild.heads import whole_sets, wild_sets, without
from tests.zoo.wild.packages import wild_cases

VARIANTS = ("ts17", "dyn18")
SECONDS = 300
WEAK = 10.0
"""A head set that moves the outputs by less than so many tolerances is left out: a wrong cut would not show."""


class WildWorkshop(Workshop):
    """A workshop whose weak head sets are left out; the order of the projections is what ran."""

    seconds = SECONDS

    def model(self) -> nn.Module:
        """Returns the torch model."""
        return self.case.builder()

    def arrays(self) -> tuple[Arrays, dict[str, float]]:
        """Returns the references and how far each head set moves the outputs."""
        if self._reference is None:
            _, moved = make(self.model(), self.case, self.sets)
            least = WEAK * self.case.tolerance
            self.sets = {label: self.sets[label] for label, value in moved.items() if value >= least}
            self._reference = make(self.model(), self.case, self.sets)
        return self._reference


def build(cases: Iterable[Wild], variants: Sequence[str], out: Path) -> None:
    """Builds the variants of the cases that are not built yet."""
    settle_torch()
    for wild in cases:
        missing = [variant for variant in variants if not _is_done(out / f"{wild.name}.{variant}")]
        if not missing:
            continue
        start = time.perf_counter()
        results = [f"{variant} {result}" for variant, result in _build(wild, missing, out)]
        for variant in missing:
            (out / f"{wild.name}.{variant}" / "package.txt").write_text(f"{wild.package}\n")
        sys.stdout.write(f"{wild.name}: {'; '.join(results)} [{time.perf_counter() - start:.1f} s]\n")
        sys.stdout.flush()


def _build(wild: Wild, variants: Sequence[str], out: Path) -> Iterable[tuple[str, str]]:
    try:
        with quiet(), time_limit(SECONDS):
            workshop = _workshop(wild.resolve(), out)
    except Exception as problem:  # a package that has changed, or is not there; the others go on
        word = "skipped" if isinstance(problem, NotApplicableError) else "broken"
        for variant in variants:
            folder = out / f"{wild.name}.{variant}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / f"{word}.txt").write_text(f"{reason(problem)}\n")
            yield variant, f"{word}: {reason(problem)}"
        return
    for variant in variants:
        yield variant, workshop.build(variant)


def _workshop(case: Case, out: Path) -> WildWorkshop:
    """A workshop of the projections that reach an output; exporters drop the others with all that they sum."""
    workshop = WildWorkshop(case, out, whole_sets(case))
    _, moved = make(workshop.model(), case, workshop.sets)
    dead = {index for index, effect in enumerate(moved.values()) if effect == 0.0}
    alive = without(case, dead) if dead else case
    workshop = WildWorkshop(alive, out, wild_sets(alive))
    workshop.arrays()
    return workshop


def _is_done(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("case.json", "failed.txt", "skipped.txt"))


def versions() -> dict[str, str]:
    """The packages of the cases that are installed here."""
    found = {}
    for package in ("torch", "onnx", "onnxscript", *sorted({wild.package for wild in wild_cases()})):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="tests.zoo.wild.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the zoo")
    parser.add_argument("--only", default="*", help="shell pattern of case names; commas join")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="exporters, joined by commas")
    options = parser.parse_args(arguments)
    patterns = options.only.split(",")
    cases = [w for w in wild_cases() if any(fnmatch.fnmatchcase(w.name, p) for p in patterns)]
    build(cases, options.variants.split(","), options.out)
    (options.out / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
