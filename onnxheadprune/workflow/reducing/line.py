"""The command line that fails: what of it stays, and the heads that follow the sites of a smaller model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from onnxheadprune.attention.heads import parse_heads, sites_of_key
from onnxheadprune.attention.sites.find import find_sites
from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.load import LoadedModel

Heads: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Heads per site, a site by its number or "*"."""
NOWHERE = "nowhere"
"""Stands for a site that the model has not."""


@dataclass(frozen=True)
class Line:
    """A command line whose model can be exchanged.

    Attributes:
        command: the name of the command.
        words: its options, but for the heads and what is written.
        heads: the heads it names, None where it names none.
        written: how it is told where to write, as in ("-o", "out.onnx"); empty where it need not write.
    """

    command: str
    words: tuple[str, ...] = ()
    heads: Heads | None = None
    written: tuple[str, str] | tuple[()] = ()

    def arguments(self, model: Path, heads: Heads | None, folder: Path) -> tuple[str, ...]:
        """The command line for a model.

        Args:
            model: its file.
            heads: heads in the place of those of the line.
            folder: where the command may write.
        """
        out = (self.written[0], str(folder / self.written[1])) if self.written else ()
        return (self.command, str(model), *self._options(heads), *out)

    def spelled(self, model: str, heads: Heads | None) -> str:
        """The command line as somebody would type it."""
        return shlex.join(
            ["onnxheadprune", self.command, model, *self._options(heads), *(self.written or ())]
        )

    def _options(self, heads: Heads | None) -> tuple[str, ...]:
        if heads is None:
            return self.words
        return (
            "--heads",
            " ".join(f"{site}:{','.join(map(str, numbers))}" for site, numbers in heads),
            *self.words,
        )


def read_heads(spec: str | None, model: LoadedModel) -> Heads | None:
    """A head spec with numbers in the place of names, since names do not survive.

    Args:
        spec: as `--heads` takes it, None without.
        model: the model that it is for.

    Raises:
        UsageError: if it cannot be read, whatever the model.
    """
    if spec is None:
        return None
    parsed = parse_heads(spec)
    numbered: dict[str, tuple[int, ...]] = {}
    for key, heads in parsed.items():
        number = _number(key, model)
        numbered[number] = tuple(sorted({*numbered.get(number, ()), *heads}))
    return tuple(numbered.items())


def _number(key: str, model: LoadedModel) -> str:
    if key == "*" or key.isdecimal():
        return key
    try:
        (site,) = sites_of_key(key, find_sites(model))
    except Exception as error:
        # Sites that are not found, for whatever reason, are a failure that the command shows itself.
        return NOWHERE if isinstance(error, HeadPruneError) else "0"
    return str(site.index)


def shifted(heads: Heads) -> list[Heads]:
    """The same heads of earlier sites: in a smaller model, a site may have fewer before it."""
    numbers = [int(site) for site, _ in heads if site.isdecimal()]
    return [
        tuple((str(int(site) - by) if site.isdecimal() else site, heads_of) for site, heads_of in heads)
        for by in range(1, min(numbers, default=0) + 1)
    ]
