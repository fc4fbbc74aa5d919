"""What the foreign builders share: a command line around `tests.zoo.build.Workshop`."""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from torch import nn

from tests.zoo import postprocess
from tests.zoo.build import Workshop, settle_torch
from tests.zoo.case import Case
from tests.zoo.export import EXPORTERS
from tests.zoo.quiet import quiet

Maker = Callable[[Path], tuple[Case, Path]]
"""Exports into a folder; returns the case and the file."""


def run(
    makers: Mapping[str, Mapping[str, Maker]], steps: Mapping[str, Callable[..., None]], about: str
) -> int:
    """Builds variants of cases.

    Args:
        makers: by the name of the case and of the plain variant.
        steps: post-processing of this tool alone: `(source, target, case, wrapped model)`.
        about: the text of `--help`.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, required=True, help="folder of the zoo")
    parser.add_argument("--only", default="*", help="shell pattern of case names; commas join")
    parser.add_argument("--variants", help="names joined by commas; all plain ones by default")
    parser.add_argument("--list", action="store_true", help="list the cases")
    options = parser.parse_args()
    settle_torch()
    patterns = options.only.split(",")
    for name, plain in makers.items():
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            continue
        variants = options.variants.split(",") if options.variants else list(plain)
        if options.list:
            _say(f"{name}: {', '.join(plain)}")
            continue
        for base, make in plain.items():
            own = [variant for variant in variants if variant.split("+")[0] == base]
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                for variant, result in _build(base, name, make, own, steps, options.out, Path(folder)):
                    _say(f"{name}.{variant}: {result} [{time.perf_counter() - start:.1f} s]")
                    start = time.perf_counter()
    return 0


def _build(
    base: str,
    name: str,
    make: Maker,
    variants: list[str],
    steps: Mapping[str, Callable[..., None]],
    out: Path,
    folder: Path,
) -> Iterator[tuple[str, str]]:
    if all((out / f"{name}.{variant}" / "case.json").exists() for variant in variants):
        yield from ((variant, "kept") for variant in variants)
        return
    try:
        with quiet():
            case, path = make(folder)
    except Exception as problem:  # an exporter may raise anything; the others go on
        where = traceback.extract_tb(problem.__traceback__)[-1]
        text = f"{type(problem).__name__}: {str(problem)[:300]} ({Path(where.filename).name}:{where.lineno})"
        yield base, f"failed: {text}"
        return
    workshop = Workshop(case, out)
    EXPORTERS[base] = lambda _, __, target: _copy(path, target)
    for step, function in steps.items():
        postprocess.POSTS[step] = partial(_with_model, function, workshop)
    for variant in variants:
        yield variant, workshop.build(variant)


def _copy(source: Path, target: Path) -> None:
    shutil.copy(source, target)
    for data in source.parent.glob(f"{source.name}*data"):
        shutil.copy(data, target.parent / data.name)


def _with_model(
    function: Callable[..., None], workshop: Workshop, source: Path, target: Path, case: Case
) -> None:
    model: nn.Module = workshop.model().get_submodule("model")
    function(source, target, case, model)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
