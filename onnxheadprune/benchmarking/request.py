"""Requests for benchmarks, as values: made by the API or a command, and passed on unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from onnxheadprune.benchmarking.measure import CONFIDENCE, ROUNDS
from onnxheadprune.errors import UsageError
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.providers import AUTO
from onnxheadprune.settings.measuring import Timing


class BenchSettings(TypedDict, total=False):
    """Settings of `benchmark` by name, where somebody else says where it runs; see there."""

    batch: Sequence[int] | None
    seq: Sequence[int] | None
    past: Sequence[int] | None
    dims: Mapping[str, int] | None
    repeats: int | None
    time_budget: float
    seed: int
    threads: int | None
    cuda_graph: bool
    memory: bool


@dataclass(frozen=True)
class BenchRequest:
    """All that one benchmark is asked for, but for the models.

    Attributes:
        timing: what, for how long, on how many threads.
        provider: "auto", "cpu", "cuda" or another execution provider's name; or one that is resolved.
        seed: of the inputs, the order of measurement and the bootstrap.
        cuda_graph: capture and replay CUDA graphs, where every model and shape allows it.
        memory: also measure the peak of memory, in a process of its own.

    Raises:
        UsageError: if a value makes no sense.
    """

    timing: Timing = field(default_factory=Timing)
    provider: str | Provider = AUTO
    seed: int = 0
    cuda_graph: bool = False
    memory: bool = True

    def __post_init__(self) -> None:
        if self.timing.repeats is not None and self.timing.repeats < ROUNDS:
            raise UsageError(f"repeats are at least {ROUNDS}: one block in each of {ROUNDS} rounds")
        if self.timing.time_budget <= 0:
            raise UsageError("a time budget is a number of seconds above 0")
        if self.seed < 0:
            raise UsageError(f"a seed is a number from 0 up, not {self.seed}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data of how it is measured; sizes and provider have fields of their own in the document."""
        return {
            "rounds": ROUNDS,
            "repeats": self.timing.repeats,
            "time_budget_seconds": self.timing.time_budget,
            "seed": self.seed,
            "threads": self.timing.threads,
            "cuda_graph": self.cuda_graph,
            "confidence": CONFIDENCE,
        }
