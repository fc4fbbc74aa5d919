"""The command line that fails: what of it stays, and the heads that follow the sites of a smaller model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from onnxheadprune.attention.heads import ALL, HeadSpec, sites_of_key
from onnxheadprune.attention.sites.find import find_sites
from onnxheadprune.attention.sites.kinds import kind_of_key
from onnxheadprune.attention.units import LAYERS, apart
from onnxheadprune.edit.site_cuts import HEADS_KEY
from onnxheadprune.errors import HeadPruneError
from onnxheadprune.model.load import LoadedModel

Heads: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]
"""Units per site as `--heads` takes them, a site by its number or "*"; no units stand for all of them."""
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
        spelled = (f"{key}:{','.join(map(str, units)) or ALL}" for key, units in heads)
        return ("--heads", " ".join(spelled), *self.words)


def read_heads(spec: HeadSpec | None, model: LoadedModel) -> Heads | None:
    """A spec of units with numbers in the place of names, since names do not survive.

    Args:
        spec: as `--heads` takes it, None without.
        model: the model that it is for.

    Raises:
        UsageError: if it cannot be read, whatever the model.
    """
    if spec is None:
        return None
    partly, whole = apart(spec)
    numbered: dict[str, tuple[int, ...]] = {}
    for key, units in partly.items():
        number = _numbered(key, model)
        numbered[number] = tuple(sorted({*numbered.get(number, ()), *units}))
    return tuple((numbered | {_numbered(key, model): () for key in whole}).items())


def _split(key: str) -> tuple[str, str]:
    """A key as its kind ("ffn.", "attn.", "layer." or "") and the site of that kind."""
    found = kind_of_key(key)
    kind = next((prefix for prefix in (HEADS_KEY, LAYERS) if key.startswith(prefix)), "")
    kind = kind if found is None else found.KEY
    return kind, key.removeprefix(kind)


def _numbered(key: str, model: LoadedModel) -> str:
    kind, site = _split(key)
    if site == ALL or site.isdecimal():
        return key
    try:
        sites, other = find_sites(model), kind_of_key(key)
        (found,) = sites_of_key(site, sites.sites if other is None else sites.of(other.UNITS))
    except Exception as error:
        # Sites that are not found, for whatever reason, are a failure that the command shows itself.
        return f"{kind}{NOWHERE if isinstance(error, HeadPruneError) else 0}"
    return f"{kind}{found.number}"


def shifted(heads: Heads) -> list[Heads]:
    """The same units of earlier sites: in a smaller model, a site may have fewer before it."""
    keys = [(_split(key), units) for key, units in heads]
    numbers = [int(site) for (_, site), _ in keys if site.isdecimal()]
    return [
        tuple(
            (f"{kind}{int(site) - by if site.isdecimal() else site}", units) for (kind, site), units in keys
        )
        for by in range(1, min(numbers, default=0) + 1)
    ]
