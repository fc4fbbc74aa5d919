"""Scores from gradients: the first-order change of a scalar when the mask of a unit, 1, becomes 0.

The scalar is the log-likelihood of the model's own prediction (Michel et al. 2019, 1905.10650; Molchanov et al. 2019,
1906.10771). Where there are no classes it is a random projection of the output f, across f, since its length does not
change the cosine: random signs as Bekas et al. (2007) draw them, less their part along f, over the length of f.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune.attention.masking import with_variables
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.parts import context_of, require_main, run_feed
from onnxheadprune.choosing.gradients.differentiate import Gradient, differentiate
from onnxheadprune.choosing.scoring.method import Scored, Subject
from onnxheadprune.data.drift import KL, Evidence, counted, measured_in
from onnxheadprune.edit.nodes import nodes_of_text
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.main_output import MainOutput, require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed

_TINY = 1e-30
LEAST = 256
"""Gradients that a random projection is drawn for. With fewer samples each is used several times."""
SEED = 0
LIKELIHOOD = "first-order change of the log-likelihood, nats per position"
PROJECTION = "first-order change of a random projection"
LOSS, VECTORS = "onnxheadprune.scoring.loss", "onnxheadprune.scoring.vectors"
_NODES = """
value = Cast<to={type}>(output)
product = Mul(value, vectors)
loss = ReduceSum<keepdims=0>(product)
"""


def taylor(subject: Subject) -> Scored:
    """Absolute first-order change of the log-likelihood (Michel et al. 2019; Molchanov et al. 2019)."""
    view, sites, evidence = subject.view, subject.sites, subject.data
    main, data = require_main_output(view), evidence.data
    has_classes = measured_in(main, None if callable(evidence.effect) else evidence.effect) == KL
    gradients = MaskGradients(view, sites, main.name, evidence.provider)
    original = Session(
        LoadedModel(view.model, "the model", view.sources),
        evidence.provider,
        name="the model",
        optimize=True,
    )
    generator = np.random.default_rng(SEED)
    feeds = replace(data, most=1).feeds
    draws = 1 if has_classes else -(-LEAST // len(feeds))
    totals = {site.index: np.zeros(site.num_units) for site in sites}
    positions = 0
    for number, feed in enumerate(feeds):
        output = run_feed(original, feed, data.source)[main.name]
        counts = _counts(output, feed, evidence)
        for draw in range(draws):
            probe = likeliest(main, output, counts) if has_classes else projection(output, counts, generator)
            # Where no position counts, as where the original gives no numbers, no gradient says anything.
            if probe.positions:
                for index, found in gradients.of(feed, probe.vectors, data.source).items():
                    totals[index][:] += np.abs(found)
            positions += probe.positions
            subject.progress("reading gradients", number * draws + draw + 1, len(feeds) * draws)
    scores = {index: total / max(positions, 1) for index, total in totals.items()}
    return Scored(scores, LIKELIHOOD if has_classes else PROJECTION, gradients.constant)


def _counts(output: Array, feed: Feed, evidence: Evidence) -> Array:
    """Return which positions of the main output count, as for drift."""
    outer = output.shape[:-1]
    mask = counted(outer, feed, evidence.data.inputs)
    return np.ones(outer, dtype=bool) if mask is None else mask


@dataclass(frozen=True)
class Probe:
    """The gradient of the scalar at the main output, for one feed."""

    vectors: Array  # of each position, in the shape of the output
    positions: int  # the number of positions that count


def likeliest(main: MainOutput, output: Array, counts: Array) -> Probe:
    """The gradient of the log-likelihood of the likeliest class of each position, in logits or in probabilities."""
    flat = output.reshape(-1, output.shape[-1]).astype(np.float64)
    # A token that is ruled out by minus infinity is a probability of 0.
    known = counts.reshape(-1) & (flat < np.inf).all(axis=-1) & np.isfinite(flat).any(axis=-1)
    rows = flat[known]
    if main.is_probabilities:
        likely = np.maximum(rows, 0.0)
        picked = np.arange(len(rows)), likely.argmax(axis=-1)
        slope = np.zeros_like(likely)
        slope[picked] = 1.0 / np.maximum(likely[picked], _TINY)
    else:
        likely = np.exp(rows - rows.max(axis=-1, keepdims=True, initial=-np.inf))
        slope = -likely / likely.sum(axis=-1, keepdims=True)
        slope[np.arange(len(rows)), likely.argmax(axis=-1)] += 1.0
    return _probe(slope, known, output.shape)


def projection(output: Array, counts: Array, generator: np.random.Generator) -> Probe:
    """Random vectors across the output of each position, over its length."""
    flat = output.reshape(-1, output.shape[-1]).astype(np.float64)
    known = counts.reshape(-1) & np.isfinite(flat).all(axis=-1)
    rows = flat[known]
    signs = generator.integers(0, 2, rows.shape) * 2.0 - 1.0
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit = rows / np.maximum(length, _TINY)
    across = signs - unit * (unit * signs).sum(axis=-1, keepdims=True)
    return _probe(np.where(length > 0, across / np.maximum(length, _TINY), 0.0), known, output.shape)


def _probe(vectors: Array, known: Array, shape: tuple[int, ...]) -> Probe:
    whole = np.zeros((len(known), shape[-1]))
    whole[known] = vectors
    return Probe(whole.reshape(shape), int(known.sum()))


class MaskGradients:
    """The gradients of sums over the main output, weighted by vectors passed with each feed."""

    def __init__(self, view: GraphView, sites: Sequence[Site], output: str, provider: Provider) -> None:
        """Differentiate the model."""
        self._sites = sites
        for site in sites:
            for projection in site.projections:
                require_main(context_of(projection))
        model, self._masks = with_variables(view, (item for site in sites for item in site.projections))
        self._type = view.main.values[output].elem_type
        gradient = differentiate(
            _with_loss(model, output, self._real), LOSS, [mask.name for mask in self._masks.values()]
        )
        self._outputs = self._required(gradient, output)
        self.constant = dict(gradient.constant)
        loaded = LoadedModel(gradient.model, "the gradient of the model", view.sources)
        self._session = Session(loaded, provider, name=loaded.name, optimize=True)
        taken = {item.name: item.type.tensor_type.elem_type for item in gradient.model.graph.input}
        self._ones = {
            mask.name: numpy_helper.to_array(mask).astype(helper.tensor_dtype_to_np_dtype(taken[mask.name]))
            for mask in self._masks.values()
        }

    @property
    def _real(self) -> int:
        """The type of the loss: double precision stays."""
        return TensorProto.DOUBLE if self._type == TensorProto.DOUBLE else TensorProto.FLOAT

    def _required(self, gradient: Gradient, output: str) -> Mapping[str, str]:
        for site in self._sites:
            for projection in site.projections:
                name = self._masks[projection.node].name
                if name not in gradient.outputs:
                    raise RefusedError(
                        f"no gradient of {output} reaches {site.label}: {gradient.constant[name]};"
                        " score by another method"
                    )
        return gradient.outputs

    def of(self, feed: Feed, vectors: Array, source: str) -> dict[int, npt.NDArray[np.float64]]:
        """For each site, by its index, the gradient with respect to the masks of its present units."""
        weights = vectors.astype(helper.tensor_dtype_to_np_dtype(self._real))
        outputs = run_feed(self._session, {**feed, **self._ones, VECTORS: weights}, source)
        found = {}
        for site in self._sites:
            total = np.zeros(site.num_units)
            for projection in site.projections:
                spread = outputs[self._outputs[self._masks[projection.node].name]].astype(np.float64)
                each = projection.gathered(spread)
                total += [each[list(channels)].sum() for channels in projection.channels]
            if not np.isfinite(total).all():
                raise UsageError(
                    f"the gradient at {site.label} is NaN or infinite on {source}; score by another method"
                )
            found[site.index] = total
        return found


def _with_loss(model: ModelProto, output: str, elem_type: int) -> ModelProto:
    """The model with the weighted sum over its main output as its only output."""
    rank = next(len(info.type.tensor_type.shape.dim) for info in model.graph.output if info.name == output)
    names = {"output": output, "vectors": VECTORS, "loss": LOSS}
    text = _NODES.format(type=elem_type)
    model.graph.node.extend(nodes_of_text(text, lambda name: names.get(name, f"{LOSS}.{name}")))
    dims = [f"{VECTORS}.{axis}" for axis in range(rank)]
    model.graph.input.append(helper.make_tensor_value_info(VECTORS, elem_type, dims))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(LOSS, elem_type, []))
    return model
