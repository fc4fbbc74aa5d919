"""Which graph input takes pictures, and where their height, width and channels are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.feeds import Input, Role
from onnxheadprune.runtime.feeds.symbols import SymbolicDim

COLOUR, GREY = 3, 1


@dataclass(frozen=True)
class PictureInput:
    """An input that takes pictures, [batch, channels, height, width] or [batch, height, width, channels].

    Attributes:
        item: the input.
        channels_last: whether channels come behind height and width.
    """

    item: Input
    channels_last: bool

    @property
    def height(self) -> int:
        """The axis of the height; that of the width is the next one."""
        return 1 if self.channels_last else 2

    @property
    def size(self) -> tuple[SymbolicDim, SymbolicDim]:
        """Height and width as the model declares them."""
        return self.item.dims[self.height], self.item.dims[self.height + 1]

    def count_channels(self) -> int:
        """How many channels there are; where that is open, those of colours.

        Raises:
            UsageError: if the model takes neither colours nor grey.
        """
        declared = self.item.dims[3 if self.channels_last else 1]
        count = declared if isinstance(declared, int) else COLOUR
        if count not in (GREY, COLOUR):
            raise UsageError(f"the model takes {self.item.describe()}, which is neither colour nor grey")
        return count


def picture_inputs(inputs: Sequence[Input]) -> list[PictureInput]:
    """Those of some graph inputs that take pictures: floats along four axes that are no cache."""
    found = []
    for item in inputs:
        if item.role is Role.FLOATS and len(item.dims) == 4 and not item.is_cache:
            last = item.dims[3] in (GREY, COLOUR) and item.dims[1] not in (GREY, COLOUR)
            found.append(PictureInput(item, last))
    return found
