"""The exact effect of each head on the outputs: leave one out.

Michel et al. 2019 (Are Sixteen Heads Really Better than One?), measured on the outputs in place of a loss.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import numpy.typing as npt

from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.graph.main_output import MainOutput, main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.runtime import Provider
from onnxheadprune.selection.activations.chain import Chain, Cut
from onnxheadprune.selection.activations.data import Calibration
from onnxheadprune.selection.activations.drift import EffectMeter, Measure
from onnxheadprune.selection.activations.parts import Parts


def ablation_scores(
    view: GraphView,
    site: AttentionSite,
    data: Calibration,
    provider: Provider,
    effect: Measure | None = None,
) -> npt.NDArray[np.float64]:
    """What silencing each present head of a site does to the outputs, averaged over the data.

    Kullback-Leibler divergence on logits, one minus the cosine elsewhere, or the user's measure. The part of
    the model before the site runs once for all heads.

    Args:
        view: an annotated view of the model.
        site: the site.
        data: what to run it on.
        provider: where to run.
        effect: the user's measure; it gets all outputs.

    Raises:
        RefusedError: if the site lives in a body, or the model has no float output.
        UsageError: if the data does not run.
    """
    main = require_main(view)
    outputs = [main.name] if not callable(effect) else [info.name for info in view.model.graph.output]
    chain = Chain(Parts(view, provider), [site], [view.main.values[name] for name in outputs])
    cuts = [Cut(site.index, (head,)) for head in range(site.num_heads)]
    meters = [EffectMeter(main, data.inputs, effect) for _ in cuts]
    for item in chain.outcomes(cuts, data.feeds, data.source):
        meters[item.cut].add(item.before, item.after, data.feeds[item.feed])
    return np.array([meter.mean() for meter in meters])


def require_main(view: GraphView, narrowed: Container[str] = ()) -> MainOutput:
    """The output that effects are measured on; none of those that a cut narrows.

    Raises:
        RefusedError: if there is none.
    """
    main = main_output(view, narrowed)
    if main is None:
        raise RefusedError("the model has no float output to measure the effect of a head on")
    return main
