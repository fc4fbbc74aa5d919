"""What goes from a model: as the command line takes it, and from the files of a folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Cut:
    """Units that go, in models whose attention sites and feed-forward blocks are numbered as their layers.

    Attributes:
        heads: per layer.
        neurons: per layer.
        layers: that go as a whole.
    """

    heads: Mapping[int, Sequence[int]] = field(default_factory=dict)
    neurons: Mapping[int, Sequence[int]] = field(default_factory=dict)
    layers: Sequence[int] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """Of `prune`."""
        specs = {
            "--heads": _spec(self.heads),
            "--neurons": _spec(self.neurons),
            "--layers": " ".join(map(str, self.layers)),
        }
        return tuple(word for option, spec in specs.items() if spec for word in (option, spec))

    @property
    def spec(self) -> dict[str, Sequence[int] | str]:
        """The same as Python's API takes it."""
        return {
            **{str(layer): gone for layer, gone in self.heads.items()},
            **{f"ffn.{layer}": gone for layer, gone in self.neurons.items()},
            **{f"layer.{layer}": "*" for layer in self.layers},
        }


BERT = {
    "uneven": Cut(heads={0: (1,), 1: (0, 2, 3)}),
    "uniform": Cut(heads={0: (1,), 1: (0,), 2: (3,)}),
    "neurons": Cut(neurons={0: range(16), 2: range(40, 48)}),
    "a layer": Cut(layers=(1,)),
    "heads, neurons and a layer": Cut(heads={0: (1,)}, neurons={2: range(16)}, layers=(1,)),
}
"""Cuts of the small BERT, which has three layers of four heads and 48 neurons."""


def prune(*arguments: object, stdout: IO[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: of `prune`.
        stdout: where its output goes, None for the terminal.

    Raises:
        CalledProcessError: if it fails.
    """
    command = [sys.executable, "-m", "onnxheadprune", "prune", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=stdout)


def prune_folder(folder: Path, out: Path, cut: Cut, client: str, options: Sequence[str] = ()) -> None:
    """A pruned folder.

    Args:
        folder: as it was exported.
        out: is made.
        cut: what goes.
        client: as `--runtime` takes it.
        options: more of `prune`.
    """
    prune(folder, "-o", out, *cut.options, "--runtime", client, *options)


def _spec(units: Mapping[int, Sequence[int]]) -> str:
    return " ".join(f"{layer}:{','.join(map(str, gone))}" for layer, gone in units.items())
