"""In which order a site of many units best loses them, some at a time, and what each step costs.

OSSCAR (Meng et al. 2024, 2403.12983): the neurons go that cost the output least once the others make up for them, and
after each step the weights of the others are refitted, by updates of the inverse and not by new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.unit import Site
from onnxheadprune.choosing.activations.contexts import projection_matrix
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.scoring.moves import Step
from onnxheadprune.choosing.scoring.reconstruction import Surgeon

STEPS = 64
"""Steps from all units to few."""


def wide_path(
    site: Site, moments: Sequence[Moments], multiple: int = 1, protected: Collection[int] = ()
) -> tuple[Step, ...]:
    """The path of a site of many units, with errors as shares of its output's variance.

    Args:
        site: the site.
        moments: of what each of its projections reads.
        multiple: how many units are left is a multiple of this after each step.
        protected: present units that stay.
    """
    surgeons = [
        Surgeon(moment.centred().covariance, projection_matrix(projection))
        for projection, moment in zip(site.projections, moments, strict=True)
    ]
    variance = sum(surgeon.variance for surgeon in surgeons) or 1.0
    owners = _owners(site)
    total, steps = 0.0, []
    for going, gone in _taken(site, multiple, protected, lambda: _costs(site, surgeons, owners)):
        for surgeon, projection in zip(surgeons, site.projections, strict=True):
            channels = sorted(channel for one in going for channel in projection.channels[one])
            total += surgeon.error(channels)
            surgeon.remove(channels)
        steps.append(Step(gone, total / variance))
    return tuple(steps)


def wide_path_by_worth(
    site: Site, worth: Sequence[float], multiple: int = 1, protected: Collection[int] = ()
) -> tuple[Step, ...]:
    """The path on which the least worthy units go first; worths add up.

    Args:
        site: the site.
        worth: of each present unit.
        multiple: how many units are left is a multiple of this after each step.
        protected: present units that stay.
    """
    each = np.array(worth)
    return tuple(
        Step(gone, float(each[list(gone)].sum()))
        for _, gone in _taken(site, multiple, protected, lambda: each)
    )


def wide_reconstruction_scores(site: Site, moments: Sequence[Moments]) -> npt.NDArray[np.float64]:
    """Return how much more of the site's output is lost when a unit goes in its turn, after refit.

    Shares of the output's variance; those that go in one step have the same. Scores never fall along the path, and
    the units that stay longest share what is left.
    """
    scores = np.zeros(site.num_units)
    before, done, highest = 0.0, frozenset[int](), 0.0
    for step in wide_path(site, moments):
        fresh = list(step.removed - done)
        highest = max(highest, (step.error - before) / len(fresh))
        scores[fresh] = highest
        before, done = step.error, step.removed
    last = [one for one in range(site.num_units) if one not in done]
    scores[last] = max(highest, (1.0 - before) / max(len(last), 1))
    return scores


def _taken(
    site: Site, multiple: int, protected: Collection[int], costs: Callable[[], np.ndarray]
) -> Iterator[tuple[list[int], frozenset[int]]]:
    """Steps from all units to few: who goes in it, and who is gone after it.

    Args:
        site: the site.
        multiple: see `wide_path`.
        protected: present units that stay.
        costs: what each unit costs next, asked anew before each step.
    """
    left = [unit for unit in site.units if not set(unit) & set(protected)]
    gone: frozenset[int] = frozenset()
    for count in _counts(site.num_units, multiple, len(protected)):
        going: list[int] = []
        each = costs()
        ranked = sorted(left, key=lambda unit: (sum(each[one] for one in unit) / len(unit), unit))
        for unit in ranked:
            if site.num_units - len(gone) - len(going) - len(unit) >= count:
                going += unit
        if not going:
            continue
        gone |= frozenset(going)
        left = [unit for unit in left if not gone & set(unit)]
        yield going, gone


def _counts(size: int, multiple: int, protected: int) -> list[int]:
    """Return how many units are left after each step, few at last."""
    least = max(multiple, -(-protected // multiple) * multiple)
    stride = max(-(-size // (STEPS * multiple)) * multiple, multiple)
    first = (size - 1) // multiple * multiple
    return list(range(first, least - 1, -stride))


def _owners(site: Site) -> list[np.ndarray]:
    """For each projection, the unit that each of its channels belongs to; -1 for channels of nobody."""
    found = []
    for projection in site.projections:
        owner = np.full(int(np.prod(projection.sizes)), -1)
        for one, channels in enumerate(projection.channels):
            owner[list(channels)] = one
        found.append(owner)
    return found


def _costs(site: Site, surgeons: Sequence[Surgeon], owners: Sequence[np.ndarray]) -> np.ndarray:
    """Return what each unit would cost if it went by itself, [units]; nothing for those that are gone."""
    costs = np.zeros(site.num_units)
    for surgeon, owner in zip(surgeons, owners, strict=True):
        mine = owner[surgeon.left]
        owned = mine >= 0
        np.add.at(costs, mine[owned], surgeon.errors()[owned])
    return costs
