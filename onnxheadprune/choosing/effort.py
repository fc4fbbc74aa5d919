"""The extent to which a selection runs a model and its data.

In a small model measuring every site is fast; in one of a billion weights, a few cuts of every site on all samples
take days. So the work is limited in advance: enough to compare sites in acceptable time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.chain import changed_by_cut
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.scoring.moves import ways_of
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.liveness.layouts import mixture_of
from onnxheadprune.model.graph.view import GraphView, Node

MOST_WORK = 1e13
"""Multiply-adds that one part of a choice may take in any case: some minutes on two cores."""
POINTS = 6
"""Steps of a path to measure, at most; the others are interpolated along their error."""
SAMPLES_TO_LOOK_AT = 512
"""Samples on which it is looked what units carry, and how far outputs drift, where fewer do not tell less."""
SAMPLES_TO_MEASURE = 128
"""Samples on which the effect of cuts is measured; Gram matrices see more of them."""
SITES_TO_MEASURE = 6
"""Sites up to which all of them are used. A cut runs on through all blocks after it, so in a deeper model each is
measured on fewer samples, and a site costs the same everywhere."""
LEAST_TO_MEASURE = 16
"""Samples that are used in any case, or fewer that have `LEAST_POSITIONS`."""
LEAST_POSITIONS = 1024
ROWS_PER_INPUT = 6
"""Positions per input of a projection that tell in any case what its heads carry."""


@dataclass(frozen=True)
class Effort:
    """The extent of a measurement."""

    points: int  # steps of each path; 0 for a single step of a single path of each site
    samples: int  # the number of samples

    @classmethod
    def of(
        cls,
        work: Work,
        sites: Sequence[Site],
        samples: int,
        positions: float,
        most: int,
    ) -> Effort:
        """Return the numbers of cuts and samples to measure: a third of a pass over the data, or `MOST_WORK`.

        More points have priority over more samples: the shape of a path matters more than measurement noise.

        Args:
            samples: of the data.
            positions: of a sample.
            most: samples that cuts may be measured on.
        """
        bound = max(MOST_WORK, work.whole * positions * samples / 3)
        least = min(most, LEAST_TO_MEASURE, max(2, math.ceil(LEAST_POSITIONS / max(positions, 1.0))))
        once = sum(work.behind(site) for site in sites) * positions
        each = sum(work.behind(site) * len(ways_of(site)) for site in sites) * positions
        points = next((count for count in range(POINTS, 0, -1) if count * each * least <= bound), 0)
        cost = points * each or once
        return cls(points, max(least, min(most, int(bound / max(cost, 1.0)))))


class Work:
    """Multiply-adds per position of a model's layers."""

    def __init__(self, view: GraphView) -> None:
        self._maps = [(node.index, _products(node)) for node in view.main.nodes]

    @property
    def whole(self) -> int:
        """Of all layers."""
        return sum(size for _, size in self._maps)

    def behind(self, site: Site) -> int:
        """Of those that a cut of a site runs: what it changes, and all later layers."""
        first = min(node.index for node in changed_by_cut(site))
        return sum(size for index, size in self._maps if index >= first)

    def to_look_at(self, data: Calibration, widest: int) -> Calibration:
        """Enough data for statistics of contexts: some hundred samples, or as many as the widest projection needs."""
        return self._part(data, MOST_WORK, ROWS_PER_INPUT * widest)

    def to_run(self, data: Calibration) -> Calibration:
        """The data for runs of whole models that decide nothing: for a reported figure, a proof."""
        return self._part(data, MOST_WORK / 4)

    def _part(self, data: Calibration, work: float, least: int = 0) -> Calibration:
        """As many positions as some work allows, or as are needed at least."""
        positions = data.positions
        if positions is None:
            return data.subset(SAMPLES_TO_LOOK_AT)
        most = max(least, min(work / max(self.whole, 1), SAMPLES_TO_LOOK_AT * positions / data.count))
        return data if positions <= most else data.subset(math.ceil(data.count * most / positions))


def _products(node: Node) -> int:
    """Multiply-adds per position of a linear layer, or of the experts that a mixture in one operator chooses."""
    linear = Linear.at(node)
    if linear is not None:
        return math.prod(linear.matrix.shape)
    mixture, tokens = mixture_of(node), node.shape(0)
    if mixture is None or not tokens or not isinstance(tokens[-1], int):
        return 0
    return tokens[-1] * mixture.products


def positions_per_sample(counts: Iterable[int], data: Calibration) -> float:
    """The mean length of samples, without padding, from the positions that sites have seen of them."""
    return max(counts, default=data.positions or 0) / max(data.count, 1)


def samples_to_measure(sites: int) -> int:
    """The number of samples to measure cuts on, by the number of sites."""
    share = (SITES_TO_MEASURE + 1) / (sites + 1)
    return max(LEAST_TO_MEASURE, round(SAMPLES_TO_MEASURE * min(share, 1.0)))
