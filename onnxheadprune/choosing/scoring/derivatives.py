"""Gradients with respect to the masks of units: one number for every unit of every site from one backward pass.

The mask of a unit is a factor of its slice of what a projection sums over; it is 1. The gradient of a scalar with
respect to it is the sum over that slice of an activation times the gradient at that activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, parser

from onnxheadprune.attention.masking import with_variables
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.parts import context_of, require_main, run_feed
from onnxheadprune.choosing.gradients.differentiate import Gradient, differentiate
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed

LOSS, VECTORS = "onnxheadprune.scoring.loss", "onnxheadprune.scoring.vectors"
_NODES = """
value = Cast<to={type}>(output)
product = Mul(value, vectors)
loss = ReduceSum<keepdims=0>(product)
"""


class MaskGradients:
    """The gradients of sums over the main output, weighted by vectors that are given with each feed.

    Attributes:
        constant: what has no gradient on the way and is held constant, with the reason, by the name of the value.
    """

    def __init__(self, view: GraphView, sites: Sequence[Site], output: str, provider: Provider) -> None:
        """Differentiates the model.

        Raises:
            RefusedError: if no gradient of the output reaches a site.
        """
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
            mask.name: mask.ones.astype(helper.tensor_dtype_to_np_dtype(taken[mask.name]))
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
        """For each site, by its index, the gradient with respect to the masks of its present units.

        Args:
            feed: what the model is run on.
            vectors: the weights of the sum, in the shape of the main output.
            source: how to call the feed in errors.

        Raises:
            UsageError: if the model does not run on it, or gives numbers that are not finite.
        """
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
    for line in _lines(elem_type):
        node = parser.parse_node(line)
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = names.get(name, f"{LOSS}.{name}")
        model.graph.node.append(node)
    dims = [f"{VECTORS}.{axis}" for axis in range(rank)]
    model.graph.input.append(helper.make_tensor_value_info(VECTORS, elem_type, dims))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(LOSS, elem_type, []))
    return model


def _lines(elem_type: int) -> Iterable[str]:
    return _NODES.format(type=elem_type).split("\n")[1:-1]
