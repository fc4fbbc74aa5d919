"""The state of a training on disk, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.claims import Making, check_makings
from onnxheadprune.model.storage.folder import write_file
from onnxheadprune.runtime import Array
from onnxheadprune.training.parameters import Master
from onnxheadprune.training.result import Measured

MARK = b"onnxheadprune-recovery"
"""Near the start of such a file: the name of its first entry."""
SUFFIX = ".recovery"


@dataclass
class State:
    """All that later steps depend on."""

    epoch: int = 0  # rounds that are done
    step: int = 0  # steps that are done
    taken: int = 0  # steps of the optimizer: without those whose gradients were too large for float16
    precision: str = ""  # of products in steps
    scale: float = 1.0  # the loss scale
    rate: float = 0.0  # the peak learning rate
    # held-out loss by each learning rate that was tried
    trials: dict[float, float] = field(default_factory=dict)
    best: int = 0  # the step with the least held-out loss
    curve: list[Measured] = field(default_factory=list)  # held-out losses so far
    # the parameters, their moments and the best parameters, one after the other
    arrays: Mapping[str, Sequence[Master]] = field(default_factory=dict)
    searched: float = 0.0  # seconds that went by before the first step
    seconds: float = 0.0  # that it took so far
    planned: int = 1  # steps that fit into the budget when they began
    samples: int = 0  # that steps took, each as often as it was taken
    learned: float = 0.0  # the loss in the end on some samples that steps learn from
    unlearned: float = 0.0  # the same at the start
    # samples that were not for the model, by the reason
    left_out: Mapping[str, int] = field(default_factory=dict)


def beside(output: str | os.PathLike[str]) -> Path:
    """Return where the checkpoint of an output is."""
    path = Path(output)
    return path.with_name(f"{path.name}{SUFFIX}")


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
                document = json.loads(found[MARK.decode()].tobytes())
                state = _state(document)
                state.arrays = {
                    name: [found[f"{name}.{number}"] for number in range(count)]
                    for name, count in document["arrays"].items()
                }
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"the checkpoint {self.path} cannot be read; start again without --resume"
            ) from error
        if document["key"] != self.key:
            raise UsageError(
                f"the checkpoint {self.path} is of another model, other data, another budget or another seed;"
                " start again without --resume"
            )
        return state

    def write(self, state: State) -> None:
        """Keep a state."""
        if self.path is None:
            return
        document = {
            **vars(state),
            "key": self.key,
            "trials": list(state.trials.items()),
            "curve": [[item.step, item.loss] for item in state.curve],
            "left_out": dict(state.left_out),
            "arrays": {name: len(arrays) for name, arrays in state.arrays.items()},
        }
        entries: dict[str, Array] = {MARK.decode(): np.frombuffer(json.dumps(document).encode(), np.uint8)}
        for name, arrays in state.arrays.items():
            entries |= {f"{name}.{number}": array for number, array in enumerate(arrays)}
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **entries)
        write_file(self.path, stream.getvalue(), renewed=True)

    def finish(self) -> None:
        """Remove the file: all is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _state(document: Mapping[str, Any]) -> State:
    start = vars(State())
    numbers: dict[str, Any] = {
        name: type(value)(document[name])
        for name, value in start.items()
        if isinstance(value, int | float | str)
    }
    return State(
        **numbers,
        trials={float(rate): float(loss) for rate, loss in document["trials"]},
        curve=[Measured(int(step), float(loss)) for step, loss in document["curve"]],
        left_out={str(why): int(count) for why, count in document["left_out"].items()},
    )
