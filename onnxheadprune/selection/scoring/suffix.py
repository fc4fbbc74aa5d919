"""A model in two parts around a site: what comes before, and what its context still changes.

Silencing a head of a site changes nothing before the site's projection. So the part before is run once for
all heads, and only the part after is run for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper

from onnxheadprune.attention.matrices import Array
from onnxheadprune.attention.sites.site import AttentionSite
from onnxheadprune.edit.extract import assembled, needed_nodes, read_by, tapped, type_of
from onnxheadprune.errors import RefusedError
from onnxheadprune.model.constants import is_constant, stored_tensor
from onnxheadprune.model.graph.view import GraphView, Value
from onnxheadprune.runtime import Provider, Session
from onnxheadprune.selection.activations.contexts import context_of


@dataclass(frozen=True, eq=False)
class Halves:
    """The two parts of a model around one site.

    Attributes:
        contexts: the site's contexts, inputs of the second part.
        before: gives the contexts and all else that the second part reads.
        after: gives the model's outputs.
    """

    contexts: tuple[Value, ...]
    before: Session
    after: Session

    def outputs(
        self, prepared: Mapping[str, Array], site: AttentionSite, heads: Sequence[int]
    ) -> dict[str, Array]:
        """The model's outputs with some heads silenced."""
        changed = dict(prepared)
        for projection, context in zip(site.projections, self.contexts, strict=True):
            axes = projection.activation[1]
            mask = projection.live_without(heads)
            value = changed[context.name]
            shape = [1] * value.ndim
            for axis, size in zip(axes, projection.sizes, strict=True):
                shape[axis] = size
            ordered = mask.transpose(np.argsort(axes))
            changed[context.name] = value * ordered.reshape(shape).astype(value.dtype)
        return self.after.run(changed)


def halves(
    view: GraphView,
    site: AttentionSite,
    outputs: Sequence[str],
    provider: Provider,
    *,
    open_weights: Iterable[str] = (),
    optimize: bool = True,
) -> Halves:
    """Splits a model around a site.

    Args:
        view: an annotated view of the model.
        site: one of its sites.
        outputs: the model outputs that matter.
        provider: where to run both parts.
        open_weights: initializers of the second part that become inputs of it.
        optimize: let ONNX Runtime rewrite both parts.

    Raises:
        RefusedError: if the site lives in the body of a control-flow operator.
    """
    contexts = tuple(context_of(projection) for projection in site.projections)
    if any(value.scope.parent is not None for value in contexts):
        raise RefusedError(
            f"site {site.index} ({site.name}) lives inside the body of a control-flow operator"
        )
    first, second = split(view, contexts, outputs, open_weights=open_weights)
    return Halves(
        contexts,
        Session(first, provider, name="the part before the site", optimize=optimize),
        Session(second, provider, name="the part after the site", optimize=optimize),
    )


def split(
    view: GraphView,
    cut: Sequence[Value],
    outputs: Sequence[str],
    *,
    also: Sequence[Value] = (),
    stored: Mapping[str, Array] | None = None,
    open_weights: Iterable[str] = (),
) -> tuple[ModelProto, ModelProto]:
    """A model as two: what makes some values, and what they still change.

    Args:
        view: an annotated view of the model.
        cut: values of the main graph, outputs of the first part and inputs of the second.
        outputs: names of the values that the second part gives.
        also: further values that the first part gives.
        stored: new contents for initializers, by name.
        open_weights: initializers of the second part that become inputs of it.
    """
    values = view.main.values
    names = {value.name for value in cut}
    after, crossing = _downstream(view.model, names, outputs)
    constant = {value.name for value in values.values() if value.holds_tensor}
    inputs = {info.name for info in view.model.graph.input} - constant
    entering = [values[name] for name in sorted((crossing | names) - constant) if name in values]
    made = [value for value in entering if value.name not in inputs]
    second = assembled(view.model, after, [values[name] for name in outputs], stored)
    second.graph.input.extend(type_of(value) for value in made)
    _open(second, frozenset(open_weights))
    wanted = {value.name: value for value in (*made, *also) if value.name not in inputs}
    return tapped(view.model, wanted.values(), stored), second


def _open(model: ModelProto, names: frozenset[str]) -> None:
    """Turns stored tensors into inputs."""
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in names]:
        model.graph.initializer.remove(tensor)
        declared = {info.name for info in model.graph.input}
        if tensor.name not in declared:
            model.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    for node in [node for node in model.graph.node if node.output[0] in names]:
        value = stored_tensor(node)
        if value is None:
            continue
        model.graph.input.append(
            helper.make_tensor_value_info(node.output[0], value.data_type, list(value.dims))
        )
        model.graph.node.remove(node)


def _downstream(
    model: ModelProto, contexts: set[str], outputs: Sequence[str]
) -> tuple[list[NodeProto], set[str]]:
    """The nodes that contexts change and outputs need, and the names they read from elsewhere."""
    needed, _ = needed_nodes(model.graph, outputs)
    changed = set(contexts)
    after = []
    for node in needed:
        if changed & read_by(node):
            after.append(node)
            changed.update(node.output)
    constants = [node for node in needed if is_constant(node) and node not in after]
    read = {name for node in after for name in read_by(node)} | set(outputs)
    made = {name for node in after for name in node.output}
    kept = [node for node in constants if set(node.output) & read]
    return [*kept, *after], read - made - {name for node in kept for name in node.output}
