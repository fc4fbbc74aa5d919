"""The inputs that reach each node: what lies in a branch counts only where the branch runs.

In the model that takes the place of one with branches (`attention/observed.py`) all nodes run on all feeds, and those
of a branch say by which conditions they count. The conditions are read in one pass of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.parts import Parts, run_feed
from onnxheadprune.edit.side_by_side import counts_where
from onnxheadprune.model.graph.view import Node
from onnxheadprune.runtime.feeds.generate import Feed


class Running:
    """The inputs that reach each node."""

    def __init__(self, parts: Parts, nodes: Iterable[Node], feeds: Sequence[Feed], source: str) -> None:
        """Reads the conditions of some nodes for all feeds; nothing is run where they have none."""
        names = sorted({name for node in nodes for name, _ in counts_where(node)})
        self._answers: list[dict[str, bool]] = []
        if not names:
            return
        session = parts.session({}, names)
        for feed in feeds:
            values = feed if session is None else {**feed, **run_feed(session, feed, source)}
            self._answers.append({name: bool(values[name].reshape(-1)[0]) for name in names})

    def reaches(self, feed: int, node: Node) -> bool:
        """Return whether a node that was named before runs on a feed."""
        return all(self._answers[feed][name] == answer for name, answer in counts_where(node))

    def is_reached(self, node: Node, feeds: Iterable[int]) -> bool:
        """Return whether a node runs on any of some feeds."""
        return any(self.reaches(feed, node) for feed in feeds)


def unreached(parts: Parts, sites: Sequence[Site], feeds: Sequence[Feed], source: str) -> tuple[Site, ...]:
    """The sites that none of some feeds reaches."""
    nodes = [item.node for site in sites for item in site.projections]
    running, all_feeds = Running(parts, nodes, feeds, source), range(len(feeds))
    return tuple(
        site
        for site in sites
        if not any(running.is_reached(item.node, all_feeds) for item in site.projections)
    )
