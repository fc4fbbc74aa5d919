"""What the outputs feel of each unit, from gradients: Fisher information, and first-order changes.

The mask of a unit is 1, and 0 without the unit. The *Fisher* score is half of the Fisher information of the mask, which
is what drift grows by to second order on the way from one to the other (Kwon et al. 2022, 2204.09656, who take labels).
The *Taylor* score is the absolute first-order change of a scalar (Michel et al. 2019, 1905.10650; Molchanov et al.
2019, 1906.10771): of the log-likelihood of what the model itself says, or of a random projection where there are no
classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.site import Site
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.progress import Progress, silent
from onnxheadprune.selection.activations.drift import MEASURES
from onnxheadprune.selection.activations.parts import run_feed
from onnxheadprune.selection.activations.rows import counted
from onnxheadprune.selection.evidence import Evidence
from onnxheadprune.selection.scoring.ablation import require_main
from onnxheadprune.selection.scoring.derivatives import MaskGradients
from onnxheadprune.selection.scoring.methods import FISHER, TAYLOR
from onnxheadprune.selection.scoring.probes import Probe, Probing
from onnxheadprune.settings.cutting import Method

LEAST = 256
"""Gradients that a random probe is drawn for: the mean of so many squares is off by a tenth. With fewer samples each is
used several times."""
SEED = 0


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """What gradients say.

    Attributes:
        scores: of the present units, per site index.
        unit: what a score means.
        constant: what was held constant on the way, with the reason, by the name of the value.
    """

    scores: Mapping[int, npt.NDArray[np.float64]]
    unit: str
    constant: Mapping[str, str]


def sensitivities(
    view: GraphView, sites: Sequence[Site], method: Method, evidence: Evidence, progress: Progress = silent
) -> Sensitivity:
    """Scores of the units of some sites by one of the two methods.

    Args:
        view: an annotated view of the model.
        sites: whose units to score.
        method: "fisher" or "taylor".
        evidence: data, where it runs, and the measure of drift; the output's own in the place of a user's, which has
            no gradient.
        progress: told after each gradient.

    Raises:
        RefusedError: if no gradient of the main output reaches a site.
        UsageError: if the model does not run on the data.
    """
    main, data = require_main(view), evidence.data
    probing = Probing(main, None if callable(evidence.effect) else evidence.effect)
    gradients = MaskGradients(view, sites, main.name, evidence.provider)
    original = Session(
        LoadedModel(view.model, "the model", view.sources), evidence.provider, name="the model", optimize=True
    )
    generator = np.random.default_rng(SEED)
    is_certain = method == TAYLOR and probing.has_classes
    feeds = list(data.one_by_one())
    draws = 1 if is_certain else -(-LEAST // len(feeds))
    totals = {site.index: np.zeros(site.num_units) for site in sites}
    positions = 0
    for number, feed in enumerate(feeds):
        output = run_feed(original, feed, data.source)[main.name]
        counts = _counts(output, feed, evidence)
        for draw in range(draws):
            probe = (
                probing.likeliest(output, counts) if is_certain else probing.random(output, counts, generator)
            )
            # Where no position counts, as where the original gives no numbers, no gradient says anything.
            if probe.positions:
                _add(totals, gradients, probe, feed, method, data.source)
            positions += probe.positions
            progress("reading gradients", number * draws + draw + 1, len(feeds) * draws)
    share = (0.5 if method == FISHER else 1.0) / max(positions, 1)
    scores = {index: share * total for index, total in totals.items()}
    return Sensitivity(scores, _unit(method, probing), gradients.constant)


def _add(
    totals: Mapping[int, npt.NDArray[np.float64]],
    gradients: MaskGradients,
    probe: Probe,
    feed: Feed,
    method: Method,
    source: str,
) -> None:
    for index, found in gradients.of(feed, probe.vectors, source).items():
        totals[index][:] += np.square(found) if method == FISHER else np.abs(found)


def _counts(output: Array, feed: Feed, evidence: Evidence) -> Array:
    """Which positions of the main output count, as they do for drift."""
    outer = output.shape[:-1]
    mask = counted(outer, feed, evidence.data.inputs)
    return np.ones(outer, dtype=bool) if mask is None else mask


def _unit(method: Method, probing: Probing) -> str:
    if method == FISHER:
        return f"estimated {MEASURES[probing.measure]}"
    if probing.has_classes:
        return "first-order change of the log-likelihood, nats per position"
    return "first-order change of a random projection"
