"""Feed-forward blocks as a kind of unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxheadprune.attention.sites.held import needed_whole
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.sweep_result import Sweep

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

    UNIT = "neuron"
    UNITS = "neurons"
    BLOCK = "block"
    TITLE = "feed-forward block"
    KEY = "ffn."
    FROM = 1_000_000
    FIELD = "feed_forward"
    UNNAMED = "feed_forward"
    LAYER = "part"
    MULTIPLE = 8
    WIDTHS = ("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner")
    FOUND_BY = "onnxheadprune.attention.sites.neurons"

    @property
    def is_branch(self) -> bool:
        """True if it is a branch of a residual stream, as sublayers are; stems and heads are none."""
        return self.kind == FEED_FORWARD

    def needed(self, units: Sequence[int], swept: Sweep) -> Refusal | None:
        """Return a refusal naming the node that still needs all neurons, None if no node does."""
        # Of others than these neurons some layers make nothing that a sweep reaches.
        return needed_whole([core for core in self.cores if core.out in swept.kept], swept, self.UNITS)

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
