"""Sites that lose all their heads: their branch goes, and what they kept alive goes with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onnxheadprune.edits import DropNode, Edit
from onnxheadprune.errors import RefusedError
from onnxheadprune.graph.view import GraphView, Node
from onnxheadprune.liveness.branch import Remnant, detach
from onnxheadprune.liveness.live import FULL
from onnxheadprune.liveness.stand_in import QUANTIZING, stand_in
from onnxheadprune.liveness.sweep import Sweep
from onnxheadprune.refusal import Refusal
from onnxheadprune.sites.site import AttentionSite, Sites


def goes_whole(site: AttentionSite, heads: Mapping[int, tuple[int, ...]]) -> bool:
    """Whether a site loses all its heads."""
    return len(heads.get(site.index, ())) == site.num_heads


def detached(sites: Sites, heads: Mapping[int, tuple[int, ...]]) -> dict[Edit, frozenset[str]]:
    """Edits that take the branches of sites without any head off the residual stream.

    Raises:
        RefusedError: if what a projection computes without heads cannot be spelled.
    """
    edits: dict[Edit, frozenset[str]] = {}
    for site in sites:
        for projection in site.projections if goes_whole(site, heads) else ():
            found = detach(projection.node)
            if isinstance(found, Remnant):
                found = stand_in(projection.node, found)
            elif isinstance(found, Refusal) and projection.node.op_type in QUANTIZING:
                found = stand_in(projection.node, None)
            if isinstance(found, Refusal):
                raise RefusedError(
                    f"site {site.index} ({site.name}) cannot be removed as a whole: {found}; leave at least one head"
                )
            edits |= dict.fromkeys(found, frozenset({site.name}))
    return edits


def half_dead(view: GraphView, sweep: Sweep, edits: Iterable[Edit]) -> list[Node]:
    """Nodes that stay although nobody needs what they compute: somebody still looks at its shape.

    Their inputs must not be narrowed then, or they would not run.
    """
    dropped = {edit.node for edit in edits if isinstance(edit, DropNode)}
    return [
        node
        for node in view.nodes
        if node.ref not in dropped
        and any(output is not None for output in node.outputs)
        and all(output is None or sweep.kept.get(output, FULL).is_dead for output in node.outputs)
    ]
