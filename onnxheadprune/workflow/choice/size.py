"""The size of the files that cuts lead to: the smallest cut that fits, and what others save."""

from __future__ import annotations

from dataclasses import dataclass

from onnxheadprune.choosing.space import SearchSpace, Selection, and_skipped
from onnxheadprune.display.spelling import change, rounded, share
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.load import LoadedModel, file_bytes, serialized
from onnxheadprune.workflow.choice.cutting import Cutter

RECORD, OF_A_TENSOR = 512, 64
"""Bytes of metadata that are written behind a cut: the verdict of the proof, and the digest of each refitted tensor."""

NOTHING_ELSE = "removing tokens is enough"
"""The basis of a choice of no units, where a smaller vocabulary or an exit makes the file small enough."""


@dataclass(frozen=True)
class FileSize:
    """The size of a model's files after cuts.

    Attributes:
        original: bytes of the original's files.
        uncut: bytes of the model that is cut: the original, without tokens and exits that are removed first.
    """

    original: int
    uncut: int

    @classmethod
    def of(cls, original: LoadedModel, subject: LoadedModel) -> FileSize:
        """The size of the model that is cut, and of the original that it was made of."""
        stored = file_bytes(original)
        before = serialized(original) if stored is None else stored
        return cls(before, before - serialized(original) + serialized(subject))

    def after(self, cutter: Cutter, selection: Selection) -> int:
        """Bytes of the files that a cut leads to."""
        refits = OF_A_TENSOR * 2 * sum(len(site.projections) for site in cutter.sites.known)
        added = RECORD + (refits if cutter.refit else 0)
        return self.uncut - serialized(cutter.model) + serialized(cutter.timed(selection)) + added

    def words(self, cutter: Cutter, selection: Selection) -> str:
        """A sentence on the size of the file before anything was measured."""
        after = self.after(cutter, selection)
        told = f"{rounded(self.original, 'B')} -> about {rounded(after, 'B')}, {change(self.original, after)}"
        return f"the file will take {told}; `target_size` specifies its size instead"

    def fits(self, wanted: float) -> bool:
        """Return whether the model takes at most a share of the original's bytes without any cut."""
        return self.uncut + RECORD <= wanted * self.original

    def smallest_cut(self, cutter: Cutter, space: SearchSpace, wanted: float) -> Selection:
        """The smallest cut whose files take at most a share of the original's.

        Raises:
            RefusedError: if no cut does.
        """
        allowed = wanted * self.original

        def fits(count: int) -> bool:
            return space.has_cut(count) and self.after(cutter, space.removing(count)) <= allowed

        most = space.most()
        if not fits(most):
            least = self.after(cutter, space.removing(most)) / self.original if space.has_cut(most) else 1.0
            more = "" if cutter.data else "; with `data` other units can be removed, too"
            raise RefusedError(
                f"a file of {share(wanted)} of the original's size was asked for, and {share(least)} can be reached"
                " (protected units, minimums and sites that cannot lose units are kept)"
                f"{and_skipped(space.skipped)}{more}"
            )
        return space.removing(space.smallest(fits))
