"""Results of compensation: new contents of initializers, and how each of them came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnxheadprune.attention.sites.kinds import key_of
from onnxheadprune.model.one_line import one_line
from onnxheadprune.runtime import Array


@one_line("node site before after strength skipped")
@dataclass(frozen=True)
class Refit:
    """The refit of one linear layer.

    Attributes:
        node: its name.
        site: index of the site whose projection it is, None for another map.
        strength: ridge strength, None if only the bias moved or nothing did.
        before: held-out error of the stream without the refit, as a share of the original's variance there.
        after: the same with it.
        skipped: why it was left as it is, None if it was refitted.
        kept: outputs of a quantized map that keep their weights, since the refit did not pay in the levels there are.
        stands_in: keys of the sublayers behind it that go and that it stands in for.
        limited: why it was refitted with a strong ridge or in its bias alone, None where any ridge was tried.
    """

    node: str
    site: int | None
    strength: float | None
    before: float
    after: float
    skipped: str | None = None
    kept: int = 0
    stands_in: tuple[str, ...] = ()
    limited: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data."""
        return {
            "node": self.node,
            "site": None if self.site is None else key_of(self.site),
            "strength": self.strength,
            "before": self.before,
            "after": self.after,
            "skipped": self.skipped,
            "kept_outputs": self.kept,
            "stands_in": list(self.stands_in),
            "limited": self.limited,
        }


@one_line("refits data samples steps")
@dataclass(frozen=True, eq=False)
class Compensation:
    """New contents of initializers of the original, and how they came about.

    Attributes:
        stored: contents by initializer name, in the original's shapes and types.
        refits: what was done, in graph order.
        data: fingerprint of the calibration data.
        samples: how many samples that were.
        steps: of training behind the contents, if they were read from a model that was trained.
        quantized: whether some of the refitted weights are stored in levels.
    """

    stored: Mapping[str, Array]
    refits: tuple[Refit, ...]
    data: str
    samples: int
    steps: int = 0
    quantized: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, without the numbers themselves."""
        return {
            "data": self.data,
            "samples": self.samples,
            "tensors": sorted(self.stored),
            "refits": [item.to_dict() for item in self.refits],
        }
