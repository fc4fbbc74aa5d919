"""Variants of a model that walk through its blocks, from one stage to the next, beside the original.

All batches go through one block after the other, so that only the weights of one block are in memory; what crosses to
the next block is kept. A variant keeps only what differs in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnx import helper

from onnxheadprune.choosing.activations.boundaries import NEVER, Boundaries
from onnxheadprune.choosing.activations.parts import Parts, run_feed
from onnxheadprune.choosing.activations.store import Store
from onnxheadprune.edit.submodel import NOTHING
from onnxheadprune.model.graph.view import Value
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed

IN_MEMORY = 2**27
"""Bytes of what crosses between blocks that stay in memory."""
BatchReader: TypeAlias = Callable[[int], dict[str, Array]]
"""Gives values for a batch, by name: the wanted ones, those that cross to the stage, and the batch itself."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A model that differs from the original in stored tensors, or in values of the stage that it starts at."""

    altered: frozenset[str]  # names of all values that may differ in it
    last: int = NEVER  # the last stage at which anything reads the tensors that differ


class Walk:
    """A model and variants of it at the place where a stage begins.

    Attributes:
        parts: makes sessions of the original's parts.
        boundaries: where it is cut.
        feeds: what all of them run on.
        stage: where they are; -1 at the inputs.
    """

    def __init__(
        self,
        parts: Parts,
        boundaries: Boundaries,
        feeds: Sequence[Feed],
        source: str = "the data",
    ) -> None:
        """Stand at the inputs."""
        self.parts, self.boundaries, self.feeds, self.stage = parts, boundaries, feeds, -1
        self._source = source
        # By front, variant (None for the original), batch and name.
        self._kept: Store[tuple[int, Variant | None, int, str]] = Store(IN_MEMORY)
        self._carried: set[int] = set()
        """The batches for which the original is at the next front already."""
        self._own: dict[Variant, Mapping[str, int]] = {}
        """The types of the values that differ here in each variant, by name."""
        self._on: dict[Variant, frozenset[int]] = {}
        """The batches of each variant."""
        self._stored: dict[Variant, Mapping[str, Array]] = {}
        """Contents of the stored tensors of each variant that are read from here on."""
        self._sessions: dict[object, Session | None] = {}

    def enter(self, stage: int, ran: Callable[[], object] = int) -> None:
        """Take all models to a stage. What is stored of a variant by then stays so before it.

        Args:
            ran: called with each batch that is moved.
        """
        while self.stage < stage:
            self._step(ran)

    def start(
        self,
        variant: Variant,
        values: Iterable[tuple[int, Mapping[str, Array]]],
        stored: Mapping[str, Array] = NOTHING,
    ) -> None:
        """Let a variant go on from here.

        Args:
            values: the batches that it runs on, each with the values that differ here.
            stored: contents of stored tensors, by name; they may change on the way.
        """
        self._stored[variant] = stored
        batches, types = set[int](), dict[str, int]()
        for batch, differing in values:
            batches.add(batch)
            for name, array in differing.items():
                types[name] = helper.np_dtype_to_tensor_dtype(array.dtype)
                self._kept[self._front, variant, batch, name] = array
        self._own[variant], self._on[variant] = types, frozenset(batches)

    def original(self, wanted: Iterable[Value]) -> BatchReader:
        """Read values of the original, and carry each batch that is read to the next stage by it."""
        names, ahead = {value.name for value in wanted}, self._next
        run = self._runner({*names, *ahead})
        others = ahead.keys() - self._here.keys() - names

        def read(batch: int) -> dict[str, Array]:
            found = run(batch)
            for name in ahead:
                self._kept[self.stage + 1, None, batch, name] = found[name]
            self._carried.add(batch)
            # What lies further ahead is nothing that work on this stage starts from.
            return {name: array for name, array in found.items() if name not in others}

        return read

    def read(self, wanted: Iterable[Value], variant: Variant | None = None) -> BatchReader:
        """Read values of a variant, with what is stored of it now, or of the original.

        Several threads may call the reader, as that of `original`, for another batch each.
        """
        return self._runner({value.name for value in wanted}, variant)

    def runs_on(self, variant: Variant, batch: int) -> bool:
        """Return whether a variant runs on a batch."""
        return batch in self._on[variant]

    @property
    def _front(self) -> int:
        return self.boundaries.front(self.stage)

    @property
    def _here(self) -> Mapping[str, int]:
        """The types of what crosses to this stage, by name."""
        return self.boundaries.crossing[self.stage] if self.stage >= 0 else {}

    @property
    def _next(self) -> Mapping[str, int]:
        """The same of the next stage, none where it starts from the same place."""
        after = self.stage + 1
        is_new = after < len(self.boundaries.crossing) and self.boundaries.front(after) != self._front
        return self.boundaries.crossing[after] if is_new else {}

    def _step(self, ran: Callable[[], object]) -> None:
        here, after, front = self._front, self._next, self.stage + 1
        if self.boundaries.front(front) == here:
            self.stage = front
            return
        carry = self.original(())
        moving = {
            variant: [name for name in after if name in variant.altered]
            if own or self._stored.get(variant)
            else []
            for variant, own in self._own.items()
        }
        runs = {variant: self._runner(names, variant) for variant, names in moving.items() if names}

        def move(batch: int) -> None:
            if batch not in self._carried:
                carry(batch)
            for variant, names in moving.items():
                if batch in self._on[variant]:
                    found = runs[variant](batch) if names else {}
                    for name in names:
                        self._kept[front, variant, batch, name] = found[name]
                    for name in self._own[variant]:
                        del self._kept[here, variant, batch, name]
            for name in self._here:
                del self._kept[here, None, batch, name]

        self.parts.workers.over(move, self.feeds, ran)
        self._own = {variant: {name: after[name] for name in names} for variant, names in moving.items()}
        self.stage = front
        self._stored = {variant: own for variant, own in self._stored.items() if variant.last >= front}
        self._carried.clear()
        self._sessions.clear()

    def _values(self, batch: int, variant: Variant | None = None) -> dict[str, Array]:
        """The batch, and what crosses to this stage."""
        values = dict(self.feeds[batch])
        values |= {name: self._kept[self._front, None, batch, name] for name in self._here}
        own = () if variant is None else self._own[variant]
        return values | {name: self._kept[self._front, variant, batch, name] for name in own}

    def _runner(self, names: Iterable[str], variant: Variant | None = None) -> BatchReader:
        own = {} if variant is None else self._own[variant]
        stored = NOTHING if variant is None else self._stored.get(variant, NOTHING)
        # Variants with the same of both have a session in common: weights are inputs of it.
        key = frozenset(names), frozenset(own.keys() - self._here.keys()), frozenset(stored)
        if key not in self._sessions:
            self._sessions[key] = self.parts.session(self._here, names, fixed=own, opened=tuple(stored))
        session = self._sessions[key]
        if session is None:
            return lambda batch: self._values(batch, variant)
        weights = {name: stored[name] for name in session.inputs if name in stored}

        def run(batch: int) -> dict[str, Array]:
            values = self._values(batch, variant)
            return values | run_feed(session, values | weights, self._source)

        return run
