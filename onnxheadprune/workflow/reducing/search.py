"""One trial after the other: is the failure still there?"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from onnxheadprune.errors import ModelError, UsageError
from onnxheadprune.model.load import LoadedModel, check_model
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage.tensors import stored_size
from onnxheadprune.runtime.progress import Progress
from onnxheadprune.workflow.reducing.ending import Ending, Failure
from onnxheadprune.workflow.reducing.hollow import filled
from onnxheadprune.workflow.reducing.line import Heads, Line, shifted
from onnxheadprune.workflow.reducing.parts import nodes_of
from onnxheadprune.workflow.reducing.process import Trier

SAME_NAME = "model.onnx"


class OutOfTimeError(Exception):
    """The budget is used up; the best so far is what there is."""


@dataclass(frozen=True)
class Case:
    """What a command line is tried on.

    Attributes:
        model: with hollow tensors.
        heads: that the command line names, None where it names none.
    """

    model: ModelProto
    heads: Heads | None


@dataclass(frozen=True)
class Soundness:
    """How good a model is, apart from the failure.

    Attributes:
        valid: whether `onnx.checker` accepts it.
        runs: whether ONNX Runtime runs it.
    """

    valid: bool
    runs: bool


@dataclass(frozen=True)
class Bench:
    """What trials are made with.

    Attributes:
        line: the command line.
        trier: runs it.
        folder: for the model and what the command writes.
        seed: of random weights.
        until: when to stop, by the monotonic clock.
    """

    line: Line
    trier: Trier
    folder: Path
    seed: int
    until: float

    def run(self, model: Path, heads: Heads | None) -> Ending:
        """How the command ends on a model; what it writes goes into an empty folder."""
        written = self.folder / "written"
        shutil.rmtree(written, ignore_errors=True)
        written.mkdir()
        return self.trier.run(self.line.arguments(model, heads, written))


class Search:
    """The smallest case so far that fails as it must."""

    def __init__(self, bench: Bench, failure: Failure, soundness: Soundness, progress: Progress) -> None:
        """Nothing is tried yet.

        Args:
            bench: what trials are made with.
            failure: what must be shown.
            soundness: what the original is, and candidates must be.
            progress: told how small the case is.
        """
        self.bench, self.failure, self.soundness = bench, failure, soundness
        self.best: Case | None = None
        self.trials = 0
        self._progress = progress
        self._seen: set[bytes] = set()

    @property
    def case(self) -> Case:
        """The best one, of which there must be one."""
        assert self.best is not None
        return self.best

    def tries(self, model: ModelProto | None, heads: Heads | None = None) -> bool:
        """Whether a model fails in the same way; if so, it is the best one from now on.

        Args:
            model: with hollow tensors; None is no candidate.
            heads: that the command names; None: those of the best case so far.

        Raises:
            OutOfTimeError: if the budget is used up.
        """
        if heads is None and self.best is not None:
            heads = self.best.heads
        if model is None or not self._is_new(model, heads):
            return False
        if time.monotonic() >= self.bench.until:
            raise OutOfTimeError
        if not self.write(model):
            return False
        ending = self.ending(heads)
        found = heads if self.failure.is_shown_by(ending) else None
        if found is None and heads and ending.kind == UsageError.__name__:
            # Sites before the one that matters may be gone.
            found = next((other for other in shifted(heads) if self._shows(other)), None)
        shown = found is not None or self.failure.is_shown_by(ending)
        if shown and self.soundness.runs:
            shown = self.bench.trier.runs(str(self.bench.folder / SAME_NAME))
        if shown:
            self.best = Case(model, found)
            nodes = sum(1 for _ in nodes_of(model))
            what = f"reducing: {nodes:,} nodes, {stored_size(model).elements:,} elements"
            self._progress(what, self.trials, 0)
        return shown

    def _shows(self, heads: Heads) -> bool:
        return self.failure.is_shown_by(self.ending(heads))

    def _is_new(self, model: ModelProto, heads: Heads | None) -> bool:
        content = model.SerializeToString(deterministic=True) + repr(heads).encode()
        digest = hashlib.sha256(content).digest()
        known = digest in self._seen
        self._seen.add(digest)
        return not known

    def write(self, model: ModelProto, finished: bool = False) -> bool:
        """Gives the model random weights and writes it where the command reads it; False if it must not be tried.

        Args:
            model: with hollow tensors.
            finished: whether it has numbers already.
        """
        made = model if finished else filled(model, self.bench.seed)
        if self.soundness.valid:
            try:
                check_model(made, "the model", full=True)
            except ModelError:
                return False
        save_model(LoadedModel(made, "the model"), self.bench.folder / SAME_NAME, renewed=True)
        return True

    def ending(self, heads: Heads | None) -> Ending:
        """How the command ends on what was written last."""
        self.trials += 1
        return self.bench.run(self.bench.folder / SAME_NAME, heads)


Pass = Callable[[Search], None]
"""Tries candidates of one kind."""
