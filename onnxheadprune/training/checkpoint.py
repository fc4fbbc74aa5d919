"""The state of a training on disk, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np

from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.claims import Making, check_makings
from onnxheadprune.model.storage.writing import write_file
from onnxheadprune.model.typed_json import (
    HIDDEN,
    Between,
    Count,
    JsonObject,
    Seconds,
    Spelled,
    json_text,
    parsed,
)
from onnxheadprune.runtime import Array
from onnxheadprune.training.parameters import Master
from onnxheadprune.training.result import Measured

MARK = b"onnxheadprune-recovery"
"""Near the start of such a file: the name of its first entry."""
SUFFIX = ".recovery"


def _learning_rates(pairs: tuple[tuple[float, float], ...]) -> dict[float, float]:
    return dict(pairs)


def _written(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


# A loss that is no finite number is null.
Loss = Annotated[
    float,
    Spelled(
        float | None,
        _written,
        lambda loss: math.inf if loss is None else loss,
    ),
]


@dataclass
class State:
    """All that later steps depend on."""

    epoch: Count = 0  # rounds that are done
    step: Count = 0  # steps that are done
    taken: Count = 0  # steps of the optimizer
    rate: float = 0.0  # the peak learning rate
    # held-out loss by each learning rate that was tried
    trials: Annotated[
        dict[float, float],
        Spelled(
            tuple[tuple[float, Loss], ...],
            lambda trials: [(rate, _written(loss)) for rate, loss in trials.items()],
            _learning_rates,
        ),
    ] = field(default_factory=dict)
    best: Count = 0  # the step with the least held-out loss
    curve: list[Measured] = field(default_factory=list)  # held-out losses so far
    # the parameters, their moments and the best parameters, one after the other
    arrays: Annotated[Mapping[str, Sequence[Master]], HIDDEN] = field(default_factory=dict)
    searched: Seconds = 0.0  # seconds that went by before the first step
    seconds: Seconds = 0.0  # that it took so far
    planned: Count = 1  # steps that fit into the budget when they began
    samples: Count = 0  # that steps took, each as often as it was taken
    learned: Loss = 0.0  # the loss in the end on some samples that steps learn from
    unlearned: Loss = 0.0  # the same at the start
    # samples that were not for the model, by the reason
    left_out: Mapping[str, Count] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept(JsonObject):
    """The contents of a checkpoint other than arrays."""

    key: str  # what the training depends on
    arrays: Mapping[str, Annotated[int, Between(0, 2**20)]]  # how many there are of each name
    state: State


def beside(output: str | os.PathLike[str]) -> Path:
    """Return where the checkpoint of an output is."""
    path = Path(output)
    return path.parent / f"{path.name}{SUFFIX}"


def making_of(checkpoint: Path) -> Making:
    """A checkpoint as a file that a call makes."""
    return Making("the checkpoint of the recovery,", checkpoint, mark=MARK)


class Checkpoint:
    """A file with the state of a training, about one model, data and seed."""

    def __init__(self, path: Path | None, key: str) -> None:
        """Look whether the file could be written later."""
        self.path, self.key = path, key
        if path is not None:
            check_makings([making_of(path)], list)

    def read(self) -> State:
        """The state that an interrupted run left."""
        if self.path is None or not self.path.is_file():
            where = "" if self.path is None else f" {self.path}"
            raise UsageError(f"there is nothing to resume: the checkpoint{where} does not exist")
        try:
            with self.path.open("rb") as stream, np.load(stream) as found:
                kept: Kept = parsed(Kept, found[MARK.decode()].tobytes().decode())
                state = kept.state
                state.arrays = {
                    name: [found[f"{name}.{number}"] for number in range(count)]
                    for name, count in kept.arrays.items()
                }
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"the checkpoint {self.path} cannot be read; start again without `resume`"
            ) from error
        if kept.key != self.key:
            raise UsageError(
                f"the checkpoint {self.path} is of another model, other data, another budget or another seed;"
                f" start again without `resume`"
            )
        return state

    def write(self, state: State) -> None:
        """Keep a state."""
        if self.path is None:
            return
        kept = Kept(self.key, {name: len(arrays) for name, arrays in state.arrays.items()}, state)
        entries: dict[str, Array] = {
            MARK.decode(): np.frombuffer(json_text(kept.to_dict()).encode(), np.uint8)
        }
        for name, arrays in state.arrays.items():
            entries |= {f"{name}.{number}": array for number, array in enumerate(arrays)}
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **entries)
        write_file(self.path, stream.getvalue())

    def finish(self) -> None:
        """Remove the file: all is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
