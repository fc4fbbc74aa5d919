"""Writes the zoo: ``python -m tests.zoo.build --out DIR [--only GLOB] [--variants V,V] [--list]``.

Each case and variant gets ``DIR/<case>.<variant>/`` with ``model.onnx``, ``reference.npz`` and
``case.json``, or with ``failed.txt`` (the exporter could not) or ``skipped.txt`` (the variant would
repeat another one). A variant is an exporter, or an exporter and steps joined with ``+``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from tests.zoo import postprocess, reference
from tests.zoo.case import Case
from tests.zoo.counts.modules import counts_of
from tests.zoo.export import EXPORTERS
from tests.zoo.families import all_cases
from tests.zoo.heads import HeadSet, head_sets
from tests.zoo.quiet import quiet, time_limit
from tests.zoo.restructure import NotApplicableError

SECONDS = 90
MIN_EFFECT = 1e-3
QUICK = ("ts17", "dyn18")
TS_ONLY = ("extdata", "bf16w", "nbits8", "functions")
ALL = (
    *EXPORTERS,
    *(f"ts17+{post}" for post in postprocess.POSTS),
    *(f"dyn18+{post}" for post in postprocess.POSTS if post not in TS_ONLY),
    "ts17+fp16+ort-extended",
    "ts17+slim+int8dyn",
    "ts17+int8dyn+ort-extended",
    "ts17+qdq+ort-extended",
    "ts17+ort-extended+int8dyn",
    "ts17+in-if+ort-extended",
    "ts17+functions+slim",
    "ts14+ort-extended",
    "dyn23+ort-extended",
    "dyn23+slim",
)


class Workshop:
    """One case with its model, references and exports, each made once and when first needed.

    Attributes:
        seconds: the most that one variant may take.
    """

    seconds = SECONDS

    def __init__(self, case: Case, out: Path, sets: dict[str, HeadSet] | None = None) -> None:
        self.case = case
        self.out = out
        self.sets: dict[str, HeadSet] = head_sets(case) if sets is None else sets
        self._model: nn.Module | None = None
        self._reference: tuple[reference.Arrays, dict[str, float]] | None = None

    def folder(self, variant: str) -> Path:
        """Returns where the variant lives."""
        return self.out / f"{self.case.name}.{variant}"

    def is_done(self, variant: str) -> bool:
        """Says whether the variant was built, or was found impossible, before."""
        names = ("case.json", "failed.txt", "skipped.txt")
        return any((self.folder(variant) / name).exists() for name in names)

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
                self._describe(variant, folder, drift)
            return f"ok ({drift:.1e})"
        except Exception as problem:  # an exporter may raise anything; the others go on
            skipped = isinstance(problem, NotApplicableError)
            for left in folder.iterdir():
                left.unlink()
            word = "skipped" if skipped else "failed"
            text = reason(problem)
            (folder / f"{word}.txt").write_text(f"{text}\n")
            return f"{word}: {text}"

    def model(self) -> nn.Module:
        """Returns the torch model."""
        if self._model is None:
            torch.manual_seed(zlib.crc32(self.case.name.encode()))
            model = self.case.builder().eval().requires_grad_(False)
            reference.check_order(model, self.case)
            self._model = model
        return self._model

    def arrays(self) -> tuple[reference.Arrays, dict[str, float]]:
        """Returns the references and how far each head set moves the outputs."""
        if self._reference is None:
            arrays, moved = reference.make(self.model(), self.case, self.sets)
            weak = {label: value for label, value in moved.items() if value < MIN_EFFECT}
            if weak:
                raise reference.BadCaseError(f"head sets that hardly matter: {weak}")
            self._reference = arrays, moved
        return self._reference

    def _export(self, variant: str, folder: Path) -> float:
        path = folder / "model.onnx"
        base, _, post = variant.rpartition("+")
        self.arrays()
        if not base:
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
        half = {i.name for i in session.get_inputs() if i.type == "tensor(float16)"}
        arrays, _ = self.arrays()
        worst = 0.0
        for k, feed in enumerate(self.case.feeds):
            # An exporter drops inputs that the model does not use.
            known = {i.name for i in session.get_inputs()} & set(feed)
            values = {n: feed[n].numpy() for n in known}
            values = {n: v.astype(np.float16) if n in half else v for n, v in values.items()}
            got = dict(
                zip(
                    self.case.outputs,
                    session.run(list(self.case.outputs), values),
                    strict=True,
                )
            )
            want = {n: arrays[f"full/feed{k}/{n}"].astype(np.float32) for n in self.case.outputs}
            worst = max(worst, reference.error(got, want))
        limit = _tolerance(self.case, variant)
        if limit is not None and not worst <= limit:
            raise ValueError(f"the export is off by {worst:.2e}")
        return worst

    def _describe(self, variant: str, folder: Path, drift: float) -> None:
        arrays, moved = self.arrays()
        np.savez_compressed(folder / "reference.npz", **arrays)  # type: ignore[arg-type]
        text = {
            "name": self.case.name,
            "family": self.case.family,
            "variant": variant,
            "expect": self.case.expect,
            "note": self.case.note,
            "tolerance": _tolerance(self.case, variant),
            "export_error": drift,
            "inputs": list(self.case.inputs),
            "outputs": list(self.case.outputs),
            "caches": [asdict(cache) for cache in self.case.caches],
            "projections": [asdict(projection) for projection in self.case.projections],
            "counts": counts_of(self.model(), self.case),
            "head_set_names": list(self.sets),
            "head_sets": list(self.sets.values()),
            "effect": list(moved.values()),
            "versions": _versions(),
        }
        (folder / "case.json").write_text(json.dumps(text, indent=1) + "\n")


def _tolerance(case: Case, variant: str) -> float | None:
    limit = case.tolerance
    for step in variant.split("+"):
        own = postprocess.TOLERANCES.get(step, 0.0)
        if own is None:
            return None
        limit = max(limit, own)
    return limit


def _versions() -> dict[str, str]:
    import timm
    import transformers

    modules = (torch, transformers, timm, onnx, ort)
    return {module.__name__: str(module.__version__) for module in modules}


def reason(problem: BaseException) -> str:
    """The innermost cause, in one line."""
    while problem.__cause__ is not None:  # exporters wrap the reason in a page of advice
        problem = problem.__cause__
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0][:300] if lines else 'no message'}"


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
                took = time.perf_counter() - start
                _say(f"{case.name}.{variant}: {result} [{took:.1f} s]")
    return counts


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _variants(text: str) -> list[str]:
    named = {"quick": QUICK, "all": ALL}
    return [v for word in text.split(",") for v in named.get(word, (word,))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="tests.zoo.build", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the zoo")
    parser.add_argument("--only", default="*", help="shell pattern of case names; commas join")
    parser.add_argument("--variants", default="quick", help="quick, all, or names joined by commas")
    parser.add_argument("--list", action="store_true", help="list the cases and variants")
    options = parser.parse_args(arguments)
    patterns = options.only.split(",")
    cases = [c for c in all_cases() if any(fnmatch.fnmatchcase(c.name, p) for p in patterns)]
    if options.list or options.out is None:
        for case in cases:
            _say(f"{case.name:32} {case.family:14} {case.expect:8} {len(case.projections)}")
        _say(f"variants: {', '.join(ALL)}")
        return 0
    _say(str(build(cases, _variants(options.variants), options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
