"""From a wish ("half of the heads", "1.3 times as fast") to heads, and to weights that make up for them."""

from __future__ import annotations

from onnxheadprune.selection.by_drift import largest_near
from onnxheadprune.selection.by_speed import smallest_fast
from onnxheadprune.selection.completing import completed
from onnxheadprune.selection.cutting import Cutter
from onnxheadprune.selection.joint import JointSpace
from onnxheadprune.selection.latency import by_latency
from onnxheadprune.selection.space import Selection, Space
from onnxheadprune.selection.wishes import Chosen, Faster, Keep, Near, Share, Wish


def choose(cutter: Cutter, wish: Wish) -> Chosen:
    """Heads for a wish, with refitted weights where that is wanted.

    Args:
        cutter: the model and its data.
        wish: how many heads are to go, and what the choice goes by.

    Raises:
        UsageError: if the wish needs data and there is none.
        RefusedError: if it cannot be met.
    """
    target = wish.target
    if isinstance(target, Near):
        cutter.hold_out("a drift is measured on data")

    def asked(space: Space) -> Selection:
        assert isinstance(target, Share | Keep)
        return space.ratio(target.ratio) if isinstance(target, Share) else space.keeping(target.heads)

    if isinstance(target, Share | Keep):
        return completed(cutter, asked(cutter.search_space(wish.requirements, asked)))
    space = cutter.search_space(wish.requirements)
    match target:
        case Faster():
            if isinstance(space, JointSpace):
                space = by_latency(cutter, space, wish.requirements.sizes)
            return smallest_fast(cutter, space, target.speedup, wish.requirements.sizes)
        case Near():
            return largest_near(cutter, space, target.drift)
