"""Short trainings of a small encoder, whole and broken off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxheadprune import Recovery, prune, validate
from tests.graphs import toys

HEADS = {0: [1, 2], 1: [0]}
EPOCHS = 4
UNSEEN = toys.sentences(seed=77)


def trained(output: Path | None = None, model: ModelProto | None = None, **given: Any) -> Recovery:
    settings: dict[str, Any] = {"recover": EPOCHS, "refit": False, "provider": "cpu"}
    model = model or toys.encoder()
    result = prune(model, output, heads=HEADS, data=toys.sentences(), **{**settings, **given})
    assert result.chosen is not None and result.chosen.recovery is not None
    return result.chosen.recovery


def drift(model: ModelProto, data: Sequence[Mapping[str, Any]] = UNSEEN) -> float:
    """Return the drift of a pruned encoder on held-out sentences."""
    found = validate(toys.encoder(), model, data=data, provider="cpu").drift
    assert found is not None and found.value is not None
    return found.value


class Stop:
    """Raises an error when so many steps were told of."""

    def __init__(self, error: type[BaseException], step: int) -> None:
        self.error, self.step = error, step

    def __call__(self, what: str, done: int, of: int) -> None:
        """Takes what `Progress` does."""
        if what.startswith("recovering") and done >= self.step:
            raise self.error
