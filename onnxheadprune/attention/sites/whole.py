"""Projections that lose all units they read: their branch goes, and what they kept alive goes with it.

That happens to every projection of a site that goes as a whole, and to those of single heads that are projected apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.edit.edits import DropInputs, DropNode, Edit, SetInput
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.registry import Refusal
from onnxheadprune.liveness.swept import Sweep
from onnxheadprune.model.graph.tables import roles_of
from onnxheadprune.model.graph.view import Node, Value


def goes_whole(site: Site, heads: Mapping[int, tuple[int, ...]]) -> bool:
    """Return whether a site loses all its units."""
    return len(heads.get(site.index, ())) == site.num_units


def going_whole(sites: Sites, heads: Mapping[int, tuple[int, ...]]) -> list[Site]:
    """The sites that lose all their units."""
    return [site for site in sites.losing(heads) if goes_whole(site, heads)]


def detached(sites: Sites, heads: Mapping[int, tuple[int, ...]]) -> dict[Edit, frozenset[str]]:
    """Edits that take the branches of projections without any unit off the residual stream.

    Raises:
        RefusedError: if what a projection computes without heads cannot be expressed as a constant.
    """
    edits: dict[Edit, frozenset[str]] = {}
    owners: dict[Node, list[Site]] = {}
    for site in sites.losing(heads):
        for projection in site.projections:
            if projection.is_emptied_by(heads[site.index]):
                owners.setdefault(projection.node, []).append(site)
    if not owners:
        return edits
    from onnxheadprune.liveness.branch import Remnant, bias_of, branches
    from onnxheadprune.liveness.stand_in import quantized_stand_in, stand_in

    def add(found: Iterable[Edit], projections: Iterable[Node]) -> None:
        names = frozenset(site.name for node in projections for site in owners[node])
        for edit in found:
            edits[edit] = edits.get(edit, frozenset()) | names

    biases = {node: bias_of(node) for node in sorted(owners, key=lambda node: node.index)}
    found = branches(bias for bias in biases.values() if isinstance(bias, Remnant))
    for node, bias in biases.items():
        if isinstance(bias, Refusal):
            quantized = bias if roles_of(node).scales is None else quantized_stand_in(node)
            add(_or_refuse(quantized, node, owners, heads), [node])
    for joint, remnant in found.joints:
        add(found.rejoined(joint, remnant), remnant.projections)
    for end in found.ends:
        made = stand_in(end, list(found.readers(end)))
        add(_or_refuse(made, end.projections[0], owners, heads), end.projections)
    return edits


def _or_refuse(
    found: Sequence[Edit] | Refusal,
    projection: Node,
    owners: Mapping[Node, Sequence[Site]],
    heads: Mapping[int, tuple[int, ...]],
) -> Sequence[Edit]:
    """The edits for a projection without units.

    Raises:
        RefusedError: if there are none.
    """
    if not isinstance(found, Refusal):
        return found
    site = owners[projection][0]
    if goes_whole(site, heads):
        raise RefusedError(
            f"{site.label} cannot be removed as a whole: {found}; leave at least one {site.UNIT}"
        )
    raise RefusedError(
        f"the {site.UNIT}s of {site.label} that {projection.label} projects alone cannot go: {found}"
    )


def half_dead(sweep: Sweep, edits: Iterable[Edit]) -> list[Value]:
    """Values that nobody needs and somebody still reads: to look at their shape.

    What computes them must not be narrowed then, or it would not run, or show another shape.
    """
    edits = list(edits)
    dropped = {edit.node for edit in edits if isinstance(edit, DropNode)}
    ignored = {(edit.node, index) for edit in edits if isinstance(edit, DropInputs) for index in edit.indices}
    ignored |= {(edit.node, edit.index) for edit in edits if isinstance(edit, SetInput)}
    return [
        value
        for value, live in sweep.kept.items()
        if live.is_dead
        and not value.holds_tensor
        and any(
            use.node.ref not in dropped and (use.node.ref, use.input_index) not in ignored
            for use in value.consumers
        )
    ]
