"""Scores from gradients at the outputs: Fisher information, and first-order changes.

The mask of a unit is 1, and 0 without the unit. The *Fisher* score is half of the Fisher information of the mask,
the second-order growth of drift from one to the other (Kwon et al. 2022, 2204.09656, who take labels).
The *Taylor* score is the absolute first-order change of a scalar (Michel et al. 2019, 1905.10650; Molchanov et al.
2019, 1906.10771): of the log-likelihood of the model's own prediction, or of a random projection where there are no
classes.

What a gradient starts from at the main output, where there are no labels.

Differences to the original vanish at the original itself, and so does the gradient of any measure of them: what is left
is the curvature. Drift is d(before, after) with a least value of 0 there, so for a small change e of the output it is
e' H e / 2, and H is known in closed form. A *probe* is a random vector v with E[v v'] = H. Then the expected square of
v' e is e' H e, and v' e is a scalar whose gradient one backward pass gives for everything in the model at once.

* Kullback-Leibler divergence of logits: H is the Fisher information diag(p) - p p' of the predicted distribution p. So
  the labels are the model's own: the true Fisher information, and not the "empirical" one with given labels, which says
  something else (Kunstner et al. 2019, 1905.12558). A label that is drawn from p would give a probe too, but a rare
  label decides alone then: v = (diag(r) - p r') s with r the roots of p and random signs s has the same H and little
  spread.
* One minus the cosine: H is the projection across the output f over its squared length, (I - f f' / |f|^2) / |f|^2, and
  v is that projection of random signs over the length.

Curvature of the output alone, through the first derivatives of the network, is the Gauss-Newton matrix (Schraudolph
2002; Martens 2020, 1412.1193); random signs estimate it as Bekas et al. 2007 do.

Positions draw independently of each other, so what they have in common cancels on average, and the square of a sum over
positions is the sum of their squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune.attention.masking import with_variables
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.parts import context_of, require_main, run_feed
from onnxheadprune.choosing.gradients.differentiate import Gradient, differentiate
from onnxheadprune.choosing.scoring.method import Scored, Subject
from onnxheadprune.data.drift import KL, MEASURES, Evidence, counted, measured_in
from onnxheadprune.edit.nodes import nodes_of_text
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.main_output import MainOutput, require_main_output
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed

_TINY = 1e-30
LEAST = 256
"""Gradients that a random probe is drawn for: the mean of so many squares is off by a tenth. With fewer samples each is
used several times."""
SEED = 0
LOSS, VECTORS = "onnxheadprune.scoring.loss", "onnxheadprune.scoring.vectors"
_NODES = """
value = Cast<to={type}>(output)
product = Mul(value, vectors)
loss = ReduceSum<keepdims=0>(product)
"""


def sensitivity(subject: Subject, *, curvature: bool) -> Scored:
    """Scores from squared gradients of the drift, or without `curvature` sizes of those of the log-likelihood."""
    view, sites, evidence = subject.view, subject.sites, subject.data
    main, data = require_main_output(view), evidence.data
    probing = Probing(main, None if callable(evidence.effect) else evidence.effect)
    gradients = MaskGradients(view, sites, main.name, evidence.provider)
    original = Session(
        LoadedModel(view.model, "the model", view.sources),
        evidence.provider,
        name="the model",
        optimize=True,
    )
    generator = np.random.default_rng(SEED)
    is_certain = not curvature and probing.has_classes
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
                for index, found in gradients.of(feed, probe.vectors, data.source).items():
                    totals[index][:] += np.square(found) if curvature else np.abs(found)
            positions += probe.positions
            subject.working.progress("reading gradients", number * draws + draw + 1, len(feeds) * draws)
    share = (0.5 if curvature else 1.0) / max(positions, 1)
    scores = {index: share * total for index, total in totals.items()}
    return Scored(scores, _unit(probing, curvature), gradients.constant)


def _counts(output: Array, feed: Feed, evidence: Evidence) -> Array:
    """Return which positions of the main output count, as for drift."""
    outer = output.shape[:-1]
    mask = counted(outer, feed, evidence.data.inputs)
    return np.ones(outer, dtype=bool) if mask is None else mask


def _unit(probing: Probing, curvature: bool) -> str:
    if curvature:
        return f"estimated {MEASURES[probing.measure]}"
    if probing.has_classes:
        return "first-order change of the log-likelihood, nats per position"
    return "first-order change of a random projection"


@dataclass(frozen=True)
class Probe:
    """The start of the gradients of one position."""

    vectors: Array  # v for each position, in the shape of the output
    positions: int  # the number of positions that count


class Probing:
    """Makes probes for the main output of a model."""

    def __init__(self, main: MainOutput, effect: str | None = None) -> None:
        """Take the measure of drift: "kl" or "cosine"; None or "auto" chooses by the kind of output."""
        self.main, self.measure = main, measured_in(main, effect)

    def random(self, output: Array, counts: Array, generator: np.random.Generator) -> Probe:
        """A probe whose expected square is twice the drift, from the original output and which positions count."""
        rows, known = self._rows(output, counts)
        signs = generator.integers(0, 2, rows.shape) * 2.0 - 1.0
        if self.measure == KL:
            vectors = self._through_likelihood(self._probabilities(rows), signs)
        else:
            length = np.linalg.norm(rows, axis=-1, keepdims=True)
            unit = rows / np.maximum(length, _TINY)
            across = signs - unit * (unit * signs).sum(axis=-1, keepdims=True)
            vectors = np.where(length > 0, across / np.maximum(length, _TINY), 0.0)
        return _probe(vectors, known, output.shape)

    def likeliest(self, output: Array, counts: Array) -> Probe:
        """The gradient of the log-likelihood of the likeliest class of each position."""
        rows, known = self._rows(output, counts)
        likely = self._probabilities(rows)
        return _probe(self._slope(likely, likely.argmax(axis=-1)), known, output.shape)

    @property
    def has_classes(self) -> bool:
        """True if there is a likeliest class."""
        return self.measure == KL

    def _rows(self, output: Array, counts: Array) -> tuple[Array, Array]:
        """The vectors that count and are finite, [positions, width], and which these are."""
        flat = output.reshape(-1, output.shape[-1]).astype(np.float64)
        finite = np.isfinite(flat)
        # A token that is ruled out by minus infinity is a probability of 0.
        is_fine = (
            (flat < np.inf).all(axis=-1) & finite.any(axis=-1) if self.measure == KL else finite.all(axis=-1)
        )
        known = counts.reshape(-1) & is_fine
        return flat[known], known

    def _probabilities(self, rows: Array) -> Array:
        if self.main.is_probabilities:
            return np.maximum(rows, 0.0)
        likely = np.exp(rows - rows.max(axis=-1, keepdims=True, initial=-np.inf))
        return np.asarray(likely / likely.sum(axis=-1, keepdims=True))

    def _through_likelihood(self, likely: Array, signs: Array) -> Array:
        roots = np.sqrt(likely)
        if self.main.is_probabilities:
            return np.where(likely > _TINY, signs / np.maximum(roots, _TINY), 0.0)
        return np.asarray(roots * signs - likely * (roots * signs).sum(axis=-1, keepdims=True))

    def _slope(self, likely: Array, labels: Array) -> Array:
        """The gradient of the log-likelihood of a label with respect to logits, or to probabilities."""
        picked = np.arange(len(likely)), labels
        if self.main.is_probabilities:
            slope = np.zeros_like(likely)
            slope[picked] = 1.0 / np.maximum(likely[picked], _TINY)
            return slope
        slope = -likely
        slope[picked] += 1.0
        return slope


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
