"""The oracle of a model with an exit that is permanent, or with fewer tokens: the original, forced and translated.

What is planned and compared with the pruned graph is the original with the exit and the vocabulary; what comes out is
compared with the original itself, in which nothing but the decision and the ids of tokens is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxheadprune.attention.analysis import analysis_of
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import Planning
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.extract import Restored
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.validation.claimed_exits import claimed_exits, claimed_vocabulary, forced_original

if TYPE_CHECKING:
    from onnxheadprune.attention.exits.leave import Leaving
    from onnxheadprune.attention.vocabulary.trim import Trimming


@dataclass(frozen=True, eq=False)
class Oracle:
    """What a pruned model is compared with.

    Attributes:
        original: what takes the same inputs, with all units.
        asked: its view, which inputs are made for.
        masked: without the units that are gone: what the pruned model must equal.
        aside: a mistake: the last decision the other way, or other tokens.
    """

    original: LoadedModel
    asked: GraphView
    masked: LoadedModel
    aside: LoadedModel


@dataclass(frozen=True, eq=False)
class Prepared:
    """The original with what a pruned model claims beside units: exits, and a smaller vocabulary.

    Attributes:
        whole: the original as it is.
        left: with the exits, None without.
        trimmed: with fewer tokens, None with all.
    """

    whole: LoadedModel
    left: Leaving | None
    trimmed: Trimming | None

    @property
    def model(self) -> LoadedModel:
        """What units are planned on, and what the graph is compared with."""
        if self.trimmed is not None:
            return self.trimmed.model
        return self.whole if self.left is None else self.left.model

    @property
    def is_changed(self) -> bool:
        """True if it differs from the original."""
        return self.left is not None or self.trimmed is not None

    @property
    def exits(self) -> tuple[int, ...]:
        """Numbers of the exits."""
        return () if self.left is None else self.left.cut.numbers

    @property
    def tokens(self) -> tuple[int, int] | None:
        """How many tokens are kept, and of how many."""
        return None if self.trimmed is None else (self.trimmed.cut.left, self.trimmed.cut.tokens.rows)

    @property
    def without(self) -> tuple[str, ...]:
        """What is gone, as people read it."""
        exits = tuple(f"exit {number}" for number in self.exits)
        return exits if self.tokens is None else (*exits, f"{self.tokens[1] - self.tokens[0]:,} tokens")

    def oracle(self, planning: Planning, refits: Restored) -> Oracle | None:
        """Return what the pruned model must equal; None where the masked reference is all that it takes.

        Args:
            planning: the units that are removed, planned on `model`.
            refits: refitted tensors, under the names that they have there.

        Raises:
            RefusedError: if a site is seen only once the exit is taken, so that the original cannot be masked.
        """
        if not self.is_changed:
            return None
        made, aside, asked = refits.into(self.whole), self.whole, planning.view
        if self.left is not None:
            made, aside = forced_original(self.whole, self.left, refits)
            asked = self.left.original.view
        original = self.whole
        if self.trimmed is not None:
            shift = 0 if self.left is not None else 1
            original, made, aside = (
                self._translated(model, by) for model, by in ((original, 0), (made, 0), (aside, shift))
            )
            asked = analysis_of(original).view
        analysis = analysis_of(made)
        sites = analysis.sites.losing(planning.heads)
        if _seen(sites) != _seen(planning.touched):
            raise RefusedError(
                f"not all sites that lose units are seen in {self.whole.name} before its exit is permanent; take the"
                " exit first, and cut what is written in a second call"
            )
        masked = made.changed(masked_reference(analysis.view, sites, planning.heads))
        return Oracle(original, asked, masked, aside)

    def _translated(self, model: LoadedModel, shift: int) -> LoadedModel:
        assert self.trimmed is not None
        return model.changed(self.trimmed.translated(model, shift))


def prepared(original: LoadedModel, pruned: LoadedModel) -> Prepared:
    """The original with the exits and the vocabulary that a pruned model claims.

    Raises:
        HeadPruneError: if the two do not belong together, or the original has none of these.
    """
    left = claimed_exits(original, pruned)
    return Prepared(original, left, claimed_vocabulary(original if left is None else left.model, pruned))


def _seen(sites: Sequence[Site]) -> list[tuple[int, int, int]]:
    return [(site.index, site.num_units, site.original_num_units) for site in sites]
