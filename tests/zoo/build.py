"""A row of the tables, built: its module, what PyTorch computes with and without heads, and its exports."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from tests.zoo import steps
from tests.zoo.attributes import projections
from tests.zoo.case import BadCaseError, Case, HeadSet, projection_weight
from tests.zoo.export import EXPORTERS
from tests.zoo.heads import sets_of, whole_sets, without
from tests.zoo.modules import counts_of
from tests.zoo.quiet import quiet, time_limit
from tests.zoo.row import Counts
from tests.zoo.runs import Array, Arrays, Runner, distances
from tests.zoo.silence import without_heads

MIN_EFFECT = 1e-3
WEAK = 10.0
"""A package's head set that moves the outputs by fewer tolerances is left out: a wrong cut would not show."""


class NotBuiltError(Exception):
    """The exporter, or a tool before us, gave up."""


class Original:
    """One architecture.

    Args:
        listed: its row.
        out: where exports lie; what is there is not made again.

    Attributes:
        case: the row, with what the module itself says of it.
        module: the model.
        counts: what its modules say of themselves.
        full: PyTorch's outputs, by feed.

    Raises:
        BadCaseError: the row is wrong.
    """

    def __init__(self, listed: Case, out: Path) -> None:
        if listed.package and not versions([listed.package]):
            raise NotBuiltError(f"{listed.package} is not installed")
        settle_torch()
        torch.manual_seed(zlib.crc32(listed.name.encode()))
        self.module = listed.builder().eval().requires_grad_(False)
        self.case, self._out = self._completed(listed), out
        self.full = [self.case.outcome(self.module, feed) for feed in range(len(self.case.feeds))]
        self._silenced: dict[str, list[Arrays]] = {}
        self._failed: dict[str, str] = {}

    def _completed(self, case: Case) -> Case:
        ran: list[torch.Tensor] = []
        run = lambda: ran.extend(case.run(self.module))  # noqa: E731
        found = projections(self.module, case.rules, run) if case.rules else run() or ()
        case = replace(case, projections=found, outputs=case.outputs or _named(len(ran)))
        if not case.package:
            return case
        axes = {name: {0: "batch"} for name in case.outputs} if case.dynamic_axes else {}
        case = replace(case, dynamic_axes={**axes, **case.dynamic_axes})
        # Exporters drop a projection that reaches no output with all that it sums.
        whole = case.outcome(self.module)
        moved = [distances(self._outcome(case, heads, 0), whole) for heads in whole_sets(case)]
        return without(case, {index for index, effect in enumerate(moved) if effect == 0.0})

    def _outcome(self, case: Case, heads: HeadSet, feed: int) -> Arrays:
        return case.outcome(without_heads(self.module, case, heads), feed)

    @cached_property
    def counts(self) -> Counts:
        own = [item for item in self.case.projections if item.tied_to is None]
        heads, kv = ([getattr(item, name) for item in own] for name in ("num_heads", "kv_num_heads"))
        return replace(counts_of(self.module, self.case), heads=(*heads,), kv=(*kv,))

    @cached_property
    def weights(self) -> list[Array]:
        """The weights of the output projections, ``[out, in]``."""
        modules = (self.module.get_submodule(item.path) for item in self.case.projections)
        return [projection_weight(module).detach().numpy() for module in modules]

    @cached_property
    def sets(self) -> dict[str, HeadSet]:
        """The head sets that matter.

        Raises:
            BadCaseError: one does not.
        """
        made = sets_of(self.case)
        least = WEAK * self.case.tolerance if self.case.package else MIN_EFFECT
        weak = {name: effect for name in made if (effect := self.effect(name, made[name])) < least}
        if weak and not self.case.package:
            raise BadCaseError(f"head sets that hardly matter: {weak}")
        return {name: heads for name, heads in made.items() if name not in weak}

    def effect(self, name: str, heads: HeadSet) -> float:
        """Return how far a head set moves the outputs, relative to their scale: the smaller of the feeds."""
        return min(distances(self.silenced(name, heads, feed), full) for feed, full in enumerate(self.full))

    def silenced(self, name: str, heads: HeadSet, feed: int) -> Arrays:
        """Return PyTorch's outputs with a head set silenced."""
        if name not in self._silenced:
            model = without_heads(self.module, self.case, heads)
            self._silenced[name] = [self.case.outcome(model, number) for number in range(len(self.full))]
        return self._silenced[name][feed]

    def tolerance(self, variant: str) -> float | None:
        """Return the largest relative error against PyTorch, None where the numbers are too coarse to compare."""
        limits = [steps.TOLERANCES.get(step, 0.0) for step in variant.split("+")]
        return None if None in limits else max(self.case.tolerance, *limits)

    def export(self, variant: str) -> Path:
        """Return the graph of a variant: an exporter, or an exporter and steps, joined by ``+``.

        Raises:
            NotBuiltError: there is none.
        """
        folder = self._out / f"{self.case.name}.{variant}"
        if variant in self._failed:
            raise NotBuiltError(self._failed[variant])
        if not folder.exists():
            self._out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._out) as place:
                made = Path(place) / "made"
                made.mkdir()
                try:
                    with quiet(), time_limit(300 if self.case.package else 90):
                        self._write(variant, made / "model.onnx")
                except Exception as problem:  # an exporter may raise anything
                    self._failed[variant] = reason(problem)
                    raise NotBuiltError(self._failed[variant]) from problem
                # Another process may have been faster.
                if not folder.exists():
                    made.replace(folder)
        return folder / "model.onnx"

    def _write(self, variant: str, path: Path) -> None:
        base, _, step = variant.rpartition("+")
        if not base:
            _ = self.sets
            EXPORTERS[variant](self.module, self.case, path)
        else:
            # Some of these tools write beside their input or patch it: they get a copy.
            with tempfile.TemporaryDirectory() as folder:
                source = Path(shutil.copytree(self.export(base).parent, Path(folder) / "source")) / path.name
                steps.STEPS[step](source, path, self)
        model, limit = Runner(str(path)), self.tolerance(variant)
        for feed, full in enumerate(self.full):
            apart = distances(model(self.case.arrays(feed)), full)
            if limit is not None and not apart <= limit:
                raise ValueError(f"the export is off by {apart:.2e}")


def _named(count: int) -> tuple[str, ...]:
    """Return names for outputs that have none."""
    return tuple(f"out{number or ''}" for number in range(count))


def reason(problem: BaseException) -> str:
    """Return the innermost cause, in one line."""
    while problem.__cause__ is not None:  # exporters wrap the reason in a page of advice
        problem = problem.__cause__
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0][:300] if lines else 'no message'}"


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of some distributions, without those that are not here."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def settle_torch() -> None:
    """Set what exports differ or fail without."""
    torch.set_num_threads(1)
    # The fused inference path of nn.TransformerEncoderLayer cannot be traced.
    torch.backends.mha.set_fastpath_enabled(False)
