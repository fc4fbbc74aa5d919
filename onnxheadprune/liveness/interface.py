"""A model's inputs and outputs after a cut: which get narrower, which are removed, and which are renamed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field

from onnxheadprune.liveness.live import Live


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a pruned model, as far as they are not the original's.

    Attributes:
        live: what is left of those that are narrower, by their names in the original.
        names: what those are called that have another name now, None for those that are gone; by their names in the
            original.
    """

    live: Mapping[str, Live] = field(default_factory=dict)
    names: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def is_as_before(self) -> bool:
        """True if nothing changes."""
        return not self.live and not self.names

    @property
    def changed(self) -> Container[str]:
        """Names in the original of all that changes: these are caches, and no result."""
        return {*self.live, *self.names}

    def after(self, name: str) -> str | None:
        """Return what an input or output of the original is called now, None if it is gone."""
        return self.names.get(name, name)

    def before(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return what inputs or outputs of the pruned model are called in the original."""
        earlier = {after: before for before, after in self.names.items() if after is not None}
        return tuple(earlier.get(name, name) for name in names)


AS_BEFORE = Interface()
"""Every input and output is the original's."""
