"""What came of checking one folder of the wild zoo."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class WildRow:
    """One architecture of a package, through one exporter.

    Attributes:
        case: the architecture.
        package: the distribution that it is from.
        variant: the exporter.
        true: query heads of each attention core that has an output projection, from the module's own attributes.
        found: how many of these cores the engine lists as sites.
        heads: the engine's numbers of heads for them, None where it found none.
        extra: removable sites that are no attention of the module.
        compared: cuts compared with PyTorch.
        equal: how many of them agree.
        refusals: why sites or head sets were refused, without names of nodes and values.
        misses: reasons of the near misses, likewise.
        silent: cores that are neither a site nor a near miss.
        failed: what the exporter, or the package, said instead of a model.
        detail: what is wrong, for people.
        error: largest error of any output of an equal cut, relative to its scale.
        expect: what pruning should answer, as the case says: "exact", "refused" or "no-site".
    """

    case: str
    package: str
    variant: str
    true: tuple[int, ...] = ()
    found: int = 0
    heads: tuple[int | None, ...] = ()
    extra: int = 0
    compared: int = 0
    equal: int = 0
    refusals: tuple[str, ...] = ()
    misses: tuple[str, ...] = ()
    silent: int = 0
    failed: str = ""
    detail: str = ""
    error: float = 0.0
    expect: str = "exact"

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"{self.case}.{self.variant}"

    @property
    def wrong_heads(self) -> bool:
        """Whether a site has another number of heads than the module says, or is no attention at all."""
        return bool(self.extra) or any(
            h is not None and h != t for h, t in zip(self.heads, self.true, strict=True)
        )

    @property
    def is_wrong(self) -> bool:
        """Whether the engine did what it must never do."""
        return self.wrong_heads or self.equal < self.compared or bool(self.silent) or bool(self.detail)

    @property
    def is_short(self) -> bool:
        """Whether the engine did less than it should, or worse."""
        if self.failed:
            return False
        missing = self.expect == "exact" and (self.found < len(self.true) or not self.compared)
        return self.is_wrong or missing or (self.expect != "exact" and bool(self.compared))

    @property
    def words(self) -> str:
        """What there is to say about it."""
        found = f"{self.found} of {len(self.true)} attentions, heads {self.heads} for {self.true}"
        cuts = f"{self.equal} of {self.compared} cuts equal"
        return "; ".join(filter(None, (found, cuts, self.detail, *self.refusals, *self.misses)))

    def to_json(self) -> str:
        """The row in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> WildRow:
        """The inverse of `to_json`."""
        data: dict[str, Any] = json.loads(line)
        lists = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
        return cls(**(data | lists))
