"""Whatever reads a call, of the command line, a job or Python, makes one request of it."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.workflow.requests import Request


@dataclass(frozen=True, kw_only=True)
class PlayCall(PruneCall):
    """A cut with a setting that the product does not have."""

    toys: int | None = None


def test_a_setting_goes_down_unchanged() -> None:
    call = PlayCall(toys=3, heads="0:1")
    assert Request.of(call).call == call
