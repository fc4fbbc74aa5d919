"""The contexts of sites: where they are, their second moments on data, and whether the data is enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxheadprune.attention.quantized import numbers_of, require_constant
from onnxheadprune.attention.sites.projection import Projection
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.choosing.activations.chain import Chain, ends
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.moments import Moments, NotFiniteError, Rows, gather
from onnxheadprune.choosing.activations.parts import Parts, context_of, require_main
from onnxheadprune.choosing.activations.walk import BatchReader
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import token_rows
from onnxheadprune.display.spelling import many
from onnxheadprune.edit.bodies import counts_where
from onnxheadprune.edit.submodel import submodel
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.liveness.domain import POSITIONS
from onnxheadprune.liveness.live import FULL, Live
from onnxheadprune.liveness.refusals import Refusal
from onnxheadprune.liveness.rule_calls import ask_about
from onnxheadprune.model.graph.operator import DEQUANTIZES, QUANTIZERS, is_a
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime import CPU, Array, Provider, Session
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.progress import Progress, silent

AnySite = TypeVar("AnySite", bound=Site)
INSTEAD = (
    "with what there is, name what to remove and add `refit`: a stronger ridge is used"
    " then, or biases alone are"
    " adjusted"
)


class SiteMoments(dict[int, tuple[Moments, ...]]):
    """Second moments of what each projection of a site reads, by index of the site; layers have no projections."""

    def __init__(self, found: Mapping[int, tuple[Moments, ...]], skipped: Mapping[str, str]) -> None:
        super().__init__(found)
        self.skipped = dict(skipped)  # why a site has none, by its label

    @property
    def counts(self) -> dict[int, int]:
        """The positions that reach all projections of a site, by its index."""
        return {index: min((item.count for item in found), default=0) for index, found in self.items()}


def context_moments(
    view: GraphView,
    sites: Sequence[Site],
    data: Calibration,
    provider: Provider,
    progress: Progress = silent,
) -> SiteMoments:
    """Second moments of each site's contexts, in one forward pass; sites with NaN or infinite ones are skipped.

    A projection in a branch sees the feeds on which the branch runs; the moments of one that never does are empty.
    """
    found: dict[int, tuple[Moments, ...]] = {site.index: () for site in sites if not site.projections}
    skipped: dict[str, str] = {}
    chain = Chain(
        Parts(view, provider), [site for site in sites if site.projections], data.feeds, data.source
    )
    for site, read in chain.contexts():
        try:
            moments = site_moments(chain, site, read, range(len(data.feeds)), data.inputs)
            found[site.index] = tuple(item.aside() for item in moments)
        except NotFiniteError as error:
            skipped[site.label] = str(error)
        progress("reading contexts", len(found) + len(skipped), len(sites))
    if skipped and not found:
        raise NotFiniteError(next(iter(skipped.values())))
    return SiteMoments(found, skipped)


def site_moments(
    chain: Chain, site: Site, read: BatchReader, batches: Sequence[int], inputs: Sequence[Input]
) -> Sequence[Moments]:
    """Second moments of what each projection of a site reads in some batches."""

    def rows(projection: Projection, at: int, values: Mapping[str, Array]) -> Rows | None:
        if not chain.running.reaches(at, projection.node):
            return None
        value = context_of(projection)
        x = token_rows(values[value.name], projection.context[1], chain.feeds[at], inputs)
        return finite(x, value), None, None

    empty = [Moments(int(np.prod(item.sizes))) for item in site.projections]
    if not empty:
        return empty
    each = (
        [rows(item, at, values) for item in site.projections]
        for at, values in zip(batches, chain.workers.each(read, batches), strict=True)
    )
    return gather(empty, each, chain.workers)


def finite(rows: Array, value: Value) -> Array:
    """The rows, if all of them are finite."""
    if not np.isfinite(rows).all():
        raise NotFiniteError(f"the model computes NaN or infinite values ({value.name}) on this data")
    return rows


def seen(
    sites: Sequence[AnySite], moments: Mapping[int, Sequence[Moments]], source: str
) -> tuple[AnySite, ...]:
    """The sites that some feed has reached, of those that have moments, and layers."""
    found = tuple(
        site
        for site in sites
        if not site.projections or any(moment.count for moment in moments.get(site.index, ()))
    )
    if not found:
        raise unreached(source)
    return found


def unreached(source: str) -> RefusedError:
    """The error where no sample reaches any site."""
    return RefusedError(
        f"no sample of {source} runs a layer that can lose anything; give data that goes further, or choose without"
        " data"
    )


def projection_matrix(projection: Projection) -> npt.NDArray[np.float64]:
    """The weights of a projection, [contracted, out], dequantized where they are quantized."""
    linear = Linear.of(projection)
    if linear is not None:
        return linear.matrix.read()
    node = projection.node
    if is_a(node, "com.microsoft.MatMulNBits"):
        return _by_identity(node, int(np.prod(projection.sizes)))
    assert projection.weight is not None, "a router is no projection of contexts"
    index, axes = projection.weight
    value = node.inputs[index]
    if value is None:
        raise RefusedError(f"{node.label} has no weights, so they cannot be read")
    picked = None if value.is_constant else _picked(value, axes, projection.sizes)
    if picked is not None:
        return picked
    array = numbers_of(value).astype(np.float64)
    roles = node.roles
    # A scale that is applied later is the same for all heads of a site where it is a single number.
    scale, zero = (_side(node, index) for index in (roles.weight_scale, roles.weight_zero))
    array = (array - (0 if zero is None else zero)) * (1 if scale is None else scale)
    free = [axis for axis in range(array.ndim) if axis not in axes]
    return array.transpose(*axes, *free).reshape(int(np.prod(projection.sizes)), -1)


def _picked(value: Value, axes: Sequence[int], sizes: Sequence[int]) -> npt.NDArray[np.float64] | None:
    """The whole stored tensor that weights are picked from, [contracted, all others]; None where that is not known."""
    live = Live.over(axes, np.arange(1, math.prod(sizes) + 1).reshape(sizes))
    while not value.is_constant:
        node = value.producer
        answer = (
            None if node is None or node in QUANTIZERS | DEQUANTIZES else ask_about(value, live, POSITIONS)
        )
        source = None if node is None else node.input(0)
        if answer is None or source is None or isinstance(answer, Refusal):
            return None
        value, live = source, answer.inputs.get(0, FULL)
    places = live.array.reshape(-1).astype(np.int64)
    if sorted(places.tolist()) != list(range(1, math.prod(sizes) + 1)):
        return None
    rows = np.moveaxis(numbers_of(value).astype(np.float64), live.axes, range(len(live.axes)))
    return rows.reshape(len(places), -1)[np.argsort(places)]


def _side(node: Node, index: int | None) -> Array | None:
    value = None if index is None else node.input(index)
    if value is None or not value.is_constant:
        return None
    numbers = numbers_of(value).astype(np.float64)
    return numbers.reshape(()) if numbers.size == 1 else None


def _by_identity(node: Node, rows: int) -> npt.NDArray[np.float64]:
    """The images of the unit vectors under a linear node: its weights, whatever they are packed in."""
    source = node.inputs[0]
    assert source is not None
    for value in node.sources[1:]:
        require_constant(value)
    elem_type = source.elem_type or TensorProto.FLOAT
    model = LoadedModel(submodel([node.out], {source.name: elem_type}), node.label, source.scope.sources)
    unit = np.concatenate([np.eye(rows), np.zeros((1, rows))])
    unit = unit.astype(helper.tensor_dtype_to_np_dtype(elem_type))
    session = Session(model, Provider(CPU, "weights"), name=node.label)
    result = session.run({source.name: unit})[node.out.name].astype(np.float64)
    return np.asarray(result[:rows] - result[rows:])


def measurable(
    view: GraphView, sites: Sequence[AnySite], data: Calibration, provider: Provider, instead: str = INSTEAD
) -> tuple[tuple[AnySite, ...], dict[str, str]]:
    """The sites that can be measured on some data, asked before the first pass over it.

    Raises:
        UsageError: if the data is too little for all of them.
        RefusedError: if no context can be read.
    """
    skipped: dict[str, str] = {}
    for site in sites:
        try:
            for value in ends(site):
                require_main(value)
        except RefusedError as error:
            skipped[site.label] = str(error)
    found = tuple(site for site in sites if site.label not in skipped)
    if not found:
        raise RefusedError(next(iter(skipped.values())))
    counts = positions_at(view, found, data, provider)
    # What is not reached, or not finite, is asked again when all are read.
    reached = tuple(site for site in found if counts.get(site.index))
    enough, short = with_enough(reached, counts, data, instead) if reached else ((), {})
    able = tuple(site for site in found if site in enough or site not in reached)
    return able, skipped | short


def positions_at(
    view: GraphView, sites: Sequence[Site], data: Calibration, provider: Provider
) -> dict[int, int]:
    """The positions that sites see of some data, by their index: estimated, or at least as many as they have inputs."""
    known = data.count if data.positions is None else data.positions
    if all(inputs_of(site) <= known or _has_position_per_token(view, site, data) for site in sites):
        return dict.fromkeys((site.index for site in sites), known)
    # Some models make other positions of their inputs: patches, windows, latents. One batch tells.
    one = data.subset(1)
    moments = context_moments(view, sites, one, provider)
    part = one.count if one.positions is None else one.positions
    return {index: round(count * known / max(part, 1)) for index, count in moments.counts.items()}


def _has_position_per_token(view: GraphView, site: Site, data: Calibration) -> bool:
    """Return whether a site sees every token of the data once: its contexts have the dimensions of the ids."""
    counted = data.counted
    tokens = None if counted is None else view.main.values[counted.name].shape
    if tokens is None or any(counts_where(item.node) for item in site.projections):
        return False
    for projection in site.projections:
        axes, shape = projection.context[1], context_of(projection).shape or ()
        if [dim for axis, dim in enumerate(shape) if axis not in axes] != list(tokens):
            return False
    return True


def with_enough(
    sites: Sequence[AnySite], counts: Mapping[int, int], data: Calibration, instead: str = INSTEAD
) -> tuple[tuple[AnySite, ...], dict[str, str]]:
    """The sites that have seen enough positions, and for the labels of the others why not."""
    short = [site for site in sites if counts[site.index] < inputs_of(site)]
    skipped = {site.label: missing(counts[site.index], inputs_of(site), data) for site in short}
    if len(short) == len(sites):
        nearest = min(sites, key=lambda site: inputs_of(site) - counts[site.index])
        raise UsageError(f"{data.source}: {skipped[nearest.label]}; {instead}")
    return tuple(site for site in sites if site not in short), skipped


def inputs_of(site: Site) -> int:
    """Inputs of a site's widest projection: as many positions say something about each of its weights."""
    return max((math.prod(item.sizes) for item in site.projections), default=0)


def missing(positions: int, inputs: int, data: Calibration) -> str:
    """A sentence on how much data is missing, in the user's unit."""
    more = math.ceil((inputs - positions) * data.count / max(positions, 1))
    wanted = f"{many(more, f'more {data.unit}')} of this length {'is' if more == 1 else 'are'} needed"
    return (
        f"{many(data.count, data.unit)} with {many(positions, 'position')} are too few for linear layers with"
        f" {inputs:,} inputs: about {wanted}"
    )
