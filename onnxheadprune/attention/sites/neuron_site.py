"""Feed-forward blocks as a kind of unit, and those in one operator: mixtures of experts, known from their weights.

Neuron `i` of an expert has the number `expert * width + i`. The operator stores all experts in one tensor, so each
expert must lose equally many neurons, but not the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxheadprune.attention.sites.needed import needed_whole
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.sites.stored_weights import once, units_together, weights_of
from onnxheadprune.liveness.layouts import EXPERTS, Mixture, mixture_of
from onnxheadprune.liveness.live import DEAD
from onnxheadprune.liveness.refusals import Reason, Refusal
from onnxheadprune.liveness.sweep import sweep
from onnxheadprune.liveness.sweep_result import Seed, Sweep
from onnxheadprune.model.graph.view import Node
from onnxheadprune.settings.units import NEURON

FEED_FORWARD = "feed-forward"
"""A branch of a residual stream, with an activation or a gate."""


CONVOLUTION = "convolution"
"""Convolutions of stems and backbones, whose windows span several positions, or that no residual stream goes around."""


LOW_RANK = "low-rank"
"""Nothing but a product of two matrices: no activation between the layers."""


MLP = "mlp"
"""Layers with an activation that no residual stream goes around: poolers, classifiers, projectors."""


PICKED = "its units are those of experts that a router chooses, and data says nothing of these"


@dataclass(frozen=True, eq=False, kw_only=True)
class NeuronSite(Site):
    """One feed-forward block; its units are neurons, numbered in the order in which the second linear layer reads them.

    Its `kind` is one of the words above.
    """

    KIND = NEURON

    @property
    def is_branch(self) -> bool:
        """True if it is a branch of a residual stream, as sublayers are; stems and heads are none."""
        return self.kind == FEED_FORWARD

    def needed(self, units: Sequence[int], swept: Sweep) -> Refusal | None:
        """Return a refusal naming the node that still needs all neurons, None if no node does."""
        # Of others than these neurons some layers make nothing that a sweep reaches.
        return needed_whole([core for core in self.cores if core.out in swept.kept], swept, self.KIND.units)

    @property
    def experts(self) -> int:
        """The number of experts of a block in one operator, whose neurons are numbered expert by expert."""
        return 1

    @property
    def only_named(self) -> str | None:
        """The reason that its neurons are removed only if named, None if they can be scored."""
        weights = [item.operand for item in self.projections]
        if any(weight is None or not weight.is_constant for weight in weights):
            return PICKED
        if self.kind == LOW_RANK:
            return "its units are the ranks of a product of two matrices, with no activation in between"
        return None

    def to_dict(self) -> dict[str, Any]:
        """The block as JSON-ready data (a part of the contract of `inspect --json`)."""
        return super().to_dict() | {"experts": self.experts}


@dataclass(frozen=True, eq=False)
class ExpertProjection(Projection):
    """A mixture of experts as a layer that sums up the neurons of all of them.

    Outputs of neurons are inside the operator, so the stored input in which zeros silence them is used instead.
    """

    layout: Mixture  # the positions of the neurons

    def spread(
        self, mask: np.ndarray[Any, np.dtype[np.bool_]], rank: int
    ) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """A mask over the stored input that silences all neurons except the remaining ones, [experts, width]."""
        return self.layout.inputs[self.activation[0]].spread(mask, rank)

    def seeds(self, units: Iterable[int], site: str) -> Iterator[Seed]:
        """The demands that removing `units` leaves on the stored inputs (none at all on any, if no unit is left)."""
        mask = self.live_without(units)
        for index, axis in self.layout.inputs.items():
            yield Seed(self.node, index, axis.live(mask), site)
        for index in () if mask.any() else self.layout.read:
            yield Seed(self.node, index, DEAD, site)

    def packed_together(self) -> Iterator[set[int]]:
        """Neurons of one expert that lie in one element of some input."""
        width = self.layout.width
        for neurons in set(self.layout.together()):
            for first in range(0, self.layout.experts * width, width):
                yield {first + neuron for neuron in neurons}

    @property
    def shared_parts(self) -> str:
        """The parts of a packed weight that such neurons share."""
        return "stored elements of its packed weights"

    def why_not_cut(self, sets: Iterable[Sequence[int]]) -> str | None:
        """Return why nothing can be cut off the weights as they are stored, None if it can."""
        return self.layout.why_not


@dataclass(frozen=True, eq=False, kw_only=True)
class ExpertSite(NeuronSite):
    """A mixture of experts; its units are neurons of single experts."""

    may_lose_groups: ClassVar[bool] = False

    def needed(self, units: Sequence[int], swept: Sweep) -> None:
        """Return None: nothing else can read what is inside the operator."""

    def numbers_by(self, other: Site) -> bool:
        """Return whether it numbers neurons by experts that a router chooses."""
        return other.routing is not None and not set(self.cores).isdisjoint(other.cores)

    @property
    def experts(self) -> int:
        """Experts, each with as many neurons as the others."""
        return len(self.groups)

    def uneven(self) -> str:
        """Return the error if experts lose different numbers of neurons."""
        width = self.original_num_units // len(self.groups)
        return (
            f"leave its {len(self.groups)} experts with different numbers of neurons, or with none (neuron i of expert"
            f" e has the number e * {width} + i)"
        )

    @property
    def only_named(self) -> str | None:
        """The reason that its neurons are removed only if named: their outputs are inside the operator."""
        return PICKED


def mixture_site(node: Node) -> ExpertSite | None:
    """The block of a fused mixture of experts, None for any other node and where its shapes do not tell."""
    layout = mixture_of(node)
    if layout is None or layout.width < 2:
        return None
    count = layout.experts * layout.width
    stored = layout.inputs[layout.silent].axis
    projection = ExpertProjection(
        node,
        (layout.silent, (EXPERTS, stored)),
        (layout.last, (EXPERTS, layout.inputs[layout.last].axis)),
        (layout.experts, layout.width),
        units_together((), count),
        layout,
    )
    groups = once(tuple(tuple(range(at, at + layout.width)) for at in range(0, count, layout.width)))
    units = units_together((projection,), count)
    # Without the router, which no neuron owns.
    trial = sweep([seed for seed in projection.seeds(range(count), "") if seed.index in layout.inputs])
    elements, size, _ = weights_of(trial)
    tokens = node.shape(0)
    hidden = None if not tokens else tokens[-1]
    return ExpertSite(
        index=NEURON.first,
        name="",
        kind=FEED_FORWARD,
        num_units=count,
        groups=groups,
        projections=(projection,),
        cores=(node,),
        units=units,
        original_num_units=count,
        reason=_why_not(node, layout, len(units)),
        params=elements,
        bytes=size,
        flops_per_token=2 * layout.products * hidden if isinstance(hidden, int) else 0,
    )


def _why_not(node: Node, layout: Mixture, units: int) -> Refusal | None:
    """Return why no neuron can be removed."""
    why = layout.why_not
    computed = [
        value.name
        for index in layout.inputs
        if (value := node.input(index)) is not None and not value.is_constant
    ]
    if computed:
        why = f"the experts of {node.label} are computed when the model runs ({computed[0]})"
    elif why is None and units <= layout.experts:
        why = f"the weights of an expert of {node.label} are stored in one piece"
    if why is None:
        return None
    return Refusal(Reason.OPAQUE_WEIGHTS, node.label, node.out.name, why)
