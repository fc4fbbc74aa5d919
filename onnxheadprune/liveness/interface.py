"""A model's inputs and outputs after a cut: which get narrower, which are removed, and which are renamed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from onnxheadprune.liveness.live import Live


@dataclass(frozen=True)
class Interface:
    """Differences of a pruned model's inputs and outputs from the original's."""

    # the kept parts of narrowed ones, by their names in the original
    live: Mapping[str, Live] = field(default_factory=dict)
    # new names of renamed ones, None for removed ones; by their names in the original
    names: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def changed(self) -> Container[str]:
        """Names in the original of all changed ones: they are caches, not results."""
        return {*self.live, *self.names}

    def after(self, name: str) -> str | None:
        """Return the new name of an input or output of the original, None if it is removed."""
        return self.names.get(name, name)

    def before(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the original names of inputs or outputs of the pruned model."""
        earlier = {after: before for before, after in self.names.items() if after is not None}
        return tuple(earlier.get(name, name) for name in names)


AS_BEFORE = Interface()
"""Every input and output is the original's."""
