"""The second mask: heads silenced where they are made, at the output of their product or fused operator.

A site names a projection. Masking that projection's input proves a cut of it, and would prove a wrong site too: one
whose "projection" is a feed-forward layer that reads the attention together with the residual stream. So the heads
are silenced at their cores as well. If the projection is the heads' own, nothing of them is left in its input, and both
masks are one model. A bias after the core leaves a constant there; that is the heads', but depends on no input.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper

from onnxheadprune import AttentionSite
from onnxheadprune.attention.planning import Planning
from onnxheadprune.liveness.live import Live
from tests.zoo.runs import FLOATS, Array, Arrays, Runner


class SecondMask:
    """The original with an input by which the output of each core is multiplied.

    Args:
        planning: of a cut of heads.

    Raises:
        NotImplementedError: the cores, or the projections, are not of float numbers in the main graph.
    """

    def __init__(self, planning: Planning) -> None:
        self.alive: dict[str, Live] = {}
        self.taps: list[tuple[str, tuple[int, ...], Array]] = []
        kinds: dict[str, int] = {}
        for site in planning.touched:
            if not isinstance(site, AttentionSite) or site.block is None:
                raise NotImplementedError(site.label)
            heads = planning.heads[site.index]
            gone = {place for head in heads for place in site.block.members[head]}
            for core in site.block.cores:
                labels = [(core.node.index, position) not in gone for position in range(len(core.heads))]
                alive, value = core.labelled(np.array(labels)), core.node.out
                self.alive[value.name] = alive & self.alive[value.name] if value.name in self.alive else alive
                kinds[value.name] = value.elem_type
            for projection in site.projections:
                index, axes = projection.activation
                value = projection.node.inputs[index]
                self.taps.append((value.name, axes, ~projection.live_without(heads)))
                kinds[value.name] = value.elem_type
        model = ModelProto()
        model.CopyFrom(planning.view.model)
        made = {name: node for node in model.graph.node for name in node.output}
        if any(kind not in FLOATS for kind in kinds.values()) or not made.keys() >= kinds.keys():
            raise NotImplementedError("a core or projection in a body, or of integers")
        for name in self.alive:
            node = made[name]
            node.output[list(node.output).index(name)] = f"{name}/raw"
            model.graph.input.append(helper.make_tensor_value_info(f"{name}/alive", kinds[name], None))
            place = list(model.graph.node).index(node) + 1
            model.graph.node.insert(place, helper.make_node("Mul", [f"{name}/raw", f"{name}/alive"], [name]))
        shown = {*(f"{name}/raw" for name in self.alive), *(name for name, *_ in self.taps)}
        shown -= {info.name for info in model.graph.output}
        model.graph.output.extend(ValueInfoProto(name=name) for name in sorted(shown))
        self.runner = Runner(model)

    def __call__(self, feed: Arrays) -> Arrays | None:
        """Return the outputs, None where a projection reads something of the heads: zeros there say nothing of it."""
        whole = self.runner({**feed, **{f"{name}/alive": np.ones(1, np.float32) for name in self.alive}})
        masks = {
            f"{name}/alive": _mask(live, whole[f"{name}/raw"].shape) for name, live in self.alive.items()
        }
        outputs = self.runner({**feed, **masks})
        for name, axes, gone in self.taps:
            front = np.moveaxis(outputs[name], axes, range(len(axes)))
            if front.reshape(gone.size, -1)[gone.reshape(-1)].any():
                return None
        return outputs


def _mask(alive: Live, shape: tuple[int, ...]) -> Array:
    """Return a live set as numbers for a value: one period repeated along an axis, or each entry of it."""
    mask = alive.spread(len(shape)).astype(np.float32)
    for axis in alive.axes:
        times = shape[axis] // mask.shape[axis]
        in_runs = alive.repeat(axis) != 1
        mask = np.repeat(mask, times, axis) if in_runs else np.concatenate([mask] * times, axis)
    return mask
