"""Writes the zoo: ``python -m tests.zoo.build --out DIR [--packages] [--only GLOB] [--variants V,V] [--list]``.

Each case and variant gets ``DIR/<case>.<variant>/`` with ``model.onnx``, ``reference.npz`` and ``case.json``; where an
exporter, a step or a package gives up, ``case.json`` alone says why. A variant is an exporter, or an exporter and steps
joined with ``+``. Packages want the environment that `tests.zoo.measure` makes.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import shutil
import sys
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import nn

from tests.zoo import postprocess, reference
from tests.zoo.attributes import projections
from tests.zoo.case import Case
from tests.zoo.export import EXPORTERS
from tests.zoo.heads import HeadSet, sets_of, whole_sets, without
from tests.zoo.modules import counts_of
from tests.zoo.quiet import quiet, time_limit
from tests.zoo.restructure import NotApplicableError

MIN_EFFECT = 1e-3
WEAK = 10.0
"""A package's head set that moves the outputs by fewer tolerances is left out: a wrong cut would not show."""
QUICK = ("ts17", "dyn18")
TS_ONLY = ("extdata", "bf16w", "nbits8", "functions")
ALL = (
    *EXPORTERS,
    *(f"ts17+{post}" for post in postprocess.POSTS),
    *(f"dyn18+{post}" for post in postprocess.POSTS if post not in TS_ONLY),
    *("ts17+fp16+ort-extended", "ts17+slim+int8dyn", "ts17+int8dyn+ort-extended", "ts17+qdq+ort-extended"),
    *("ts17+ort-extended+int8dyn", "ts17+in-if+ort-extended", "ts17+functions+slim", "ts14+ort-extended"),
    *("dyn23+ort-extended", "dyn23+slim"),
)
TOOLS = (
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "torch",
    "transformers",
    "timm",
    "onnxslim",
    "onnxsim",
)


class Workshop:
    """One case with its model, references and exports, each made once and when first needed."""

    def __init__(self, case: Case, out: Path) -> None:
        self.listed, self.out = case, out
        self.seconds = 300 if case.package else 90

    def folder(self, variant: str) -> Path:
        """Returns where the variant lives."""
        return self.out / f"{self.listed.name}.{variant}"

    def is_done(self, variant: str) -> bool:
        """Says whether the variant was built, or was found impossible, before."""
        return (self.folder(variant) / "case.json").exists()

    def build(self, variant: str) -> str:
        """Builds one variant and returns what became of it, in one line."""
        if self.is_done(variant):
            return "kept"
        folder = self.folder(variant)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            with quiet(), time_limit(self.seconds):
                drift = self._export(variant, folder)
                describe(folder, self.case, variant, self._details(variant, folder, drift))
            return f"ok ({drift:.1e})"
        except Exception as problem:  # an exporter may raise anything; the others go on
            for left in folder.iterdir():
                left.unlink()
            describe(folder, self.listed, variant, {"failed": reason(problem)})
            return f"failed: {reason(problem)}"

    @cached_property
    def _made(self) -> tuple[nn.Module, Case]:
        """The module, and the case with what the module itself says of it."""
        case = self.listed
        if case.package and not installed([case.package]):
            raise NotApplicableError(f"{case.package} is not installed")
        torch.manual_seed(zlib.crc32(case.name.encode()))
        model = case.builder().eval().requires_grad_(False)
        if case.outputs and not case.rules:
            reference.check_order(model, case)
            return model, case
        ran: list[torch.Tensor] = []
        run = lambda: ran.extend(reference.run(model, case, case.feeds[0]))  # noqa: E731
        found = projections(model, case.rules, run) if case.rules else run()
        case = replace(case, projections=found or (), outputs=case.outputs or named(len(ran)))
        if case.package:
            axes = {name: {0: "batch"} for name in case.outputs} if case.dynamic_axes else {}
            case = replace(case, dynamic_axes={**axes, **case.dynamic_axes})
            _, moved = reference.make(model, case, whole_sets(case))
            # Exporters drop a projection that reaches no output with all that it sums.
            case = without(case, {index for index, effect in enumerate(moved.values()) if effect == 0.0})
        return model, case

    @property
    def case(self) -> Case:
        """The case, its projections and outputs known."""
        return self._made[1]

    def model(self) -> nn.Module:
        """Returns the torch model."""
        return self._made[0]

    @cached_property
    def _reference(self) -> tuple[dict[str, HeadSet], reference.Arrays, dict[str, float]]:
        sets = sets_of(self.case)
        arrays, moved = reference.make(self.model(), self.case, sets)
        least = WEAK * self.case.tolerance if self.case.package else MIN_EFFECT
        weak = {label: value for label, value in moved.items() if value < least}
        if weak and not self.case.package:
            raise reference.BadCaseError(f"head sets that hardly matter: {weak}")
        if weak:
            sets = {label: heads for label, heads in sets.items() if label not in weak}
            arrays, moved = reference.make(self.model(), self.case, sets)
        return sets, arrays, moved

    def _export(self, variant: str, folder: Path) -> float:
        path = folder / "model.onnx"
        base, _, post = variant.rpartition("+")
        if not base:
            _ = self._reference
            EXPORTERS[variant](self.model(), self.case, path)
        else:
            source = self.folder(base) / "model.onnx"
            if not self.is_done(base):
                self.build(base)
            if not source.exists():
                raise NotApplicableError(f"there is no {base}")
            postprocess.run(post, source, path, self.case)
        return self._verify(variant, path)

    def _verify(self, variant: str, path: Path) -> float:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        # What is written is what must be right, not what this session would make of it.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = {item.name: item.type for item in session.get_inputs()}
        _, arrays, _ = self._reference
        worst, outputs = 0.0, list(self.case.outputs)
        for k, feed in enumerate(self.case.feeds):
            # An exporter drops inputs that the model does not use.
            values = {name: feed[name].numpy() for name in inputs.keys() & set(feed)}
            for name in values:
                if inputs[name] == "tensor(float16)":
                    values[name] = values[name].astype(np.float16)
            got = dict(zip(outputs, session.run(outputs, values), strict=True))
            want = {name: arrays[f"full/feed{k}/{name}"].astype(np.float32) for name in outputs}
            worst = max(worst, reference.error(got, want))
        limit = _tolerance(self.case, variant)
        if limit is not None and not worst <= limit:
            raise ValueError(f"the export is off by {worst:.2e}")
        return worst

    def _details(self, variant: str, folder: Path, drift: float) -> dict[str, Any]:
        sets, arrays, moved = self._reference
        np.savez_compressed(folder / "reference.npz", **arrays)  # type: ignore[arg-type]
        return {
            "tolerance": _tolerance(self.case, variant),
            "export_error": drift,
            "inputs": list(self.case.inputs),
            "outputs": list(self.case.outputs),
            "caches": [asdict(cache) for cache in self.case.caches],
            "projections": [asdict(projection) for projection in self.case.projections],
            "counts": counts_of(self.model(), self.case),
            "head_set_names": list(sets),
            "head_sets": list(sets.values()),
            "effect": list(moved.values()),
        }


def describe(folder: Path, case: Case, variant: str, details: Mapping[str, Any]) -> None:
    """Writes ``case.json``."""
    told = {name: getattr(case, name) for name in ("name", "family", "package", "expect", "note")}
    (folder / "case.json").write_text(json.dumps({**told, "variant": variant, **details}, indent=1) + "\n")


def named(count: int) -> tuple[str, ...]:
    """Names for outputs that have none."""
    return tuple(f"out{number or ''}" for number in range(count))


def _tolerance(case: Case, variant: str) -> float | None:
    limits = [postprocess.TOLERANCES.get(step, 0.0) for step in variant.split("+")]
    return None if None in limits else max(case.tolerance, *limits)


def reason(problem: BaseException) -> str:
    """The innermost cause, in one line."""
    while problem.__cause__ is not None:  # exporters wrap the reason in a page of advice
        problem = problem.__cause__
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0][:300] if lines else 'no message'}"


def installed(names: Iterable[str]) -> dict[str, str]:
    """The versions of some distributions, without those that are not here."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def settle_torch() -> None:
    """Settings without which exports differ or fail."""
    torch.set_num_threads(1)
    # The fused inference path of nn.TransformerEncoderLayer cannot be traced.
    torch.backends.mha.set_fastpath_enabled(False)


def build(cases: Iterable[Case], variants: Sequence[str], out: Path) -> dict[str, int]:
    """Builds every variant of every case and returns how many ended in which way."""
    settle_torch()
    counts: dict[str, int] = {}
    for case in cases:
        workshop = Workshop(case, out)
        for variant in variants:
            start = time.perf_counter()
            result = workshop.build(variant)
            word = result.partition(" ")[0].rstrip(":")
            counts[word] = counts.get(word, 0) + 1
            if word != "kept":
                say(f"{case.name}.{variant}: {result} [{time.perf_counter() - start:.1f} s]")
    return counts


def say(line: str) -> None:
    """Prints a line now."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _variants(text: str) -> list[str]:
    given = {"quick": QUICK, "all": ALL}
    return [v for word in text.split(",") for v in given.get(word, (word,))]


def fitting(cases: Iterable[Case], patterns: str) -> list[Case]:
    """The cases whose names fit one of some shell patterns that commas join."""
    return [c for c in cases if any(fnmatch.fnmatchcase(c.name, p) for p in patterns.split(","))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="tests.zoo.build", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the zoo")
    parser.add_argument("--packages", action="store_true", help="models of packages instead of the families")
    parser.add_argument("--only", default="*", help="shell pattern of case names; commas join")
    parser.add_argument("--variants", default="quick", help="quick, all, or names joined by commas")
    parser.add_argument("--list", action="store_true", help="list the cases and variants")
    options = parser.parse_args(arguments)
    if options.packages:
        from tests.zoo.packages import all_cases
    else:
        from tests.zoo.families import all_cases
    cases = fitting(all_cases(), options.only)
    if options.list or options.out is None:
        for case in cases:
            say(f"{case.name:32} {case.family:14} {case.expect}")
        say(f"variants: {', '.join(ALL)}")
        return 0
    say(str(build(cases, _variants(options.variants), options.out)))
    versions = installed(dict.fromkeys((*TOOLS, *sorted({case.package for case in cases if case.package}))))
    (options.out / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
