"""What a pruned model claims to be: which heads are gone, seen from the original.

The claim is read from the pruned model's record, then planned again on the original. Nothing of the
pruned model's graph is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, ValueInfoProto

from onnxheadprune.attention.contract import Contract
from onnxheadprune.attention.heads import HeadSpec
from onnxheadprune.attention.planning import Planning, analyse
from onnxheadprune.attention.sites.find import pruning_record, sites_of, view_of
from onnxheadprune.attention.sites.site import Sites
from onnxheadprune.edit.plan import REMOVED_KEY
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.fusion import fused_record
from onnxheadprune.model.graph.dims import Shape

CONTRACTS = (
    Contract(),
    Contract(keep_cache_shape=True),
    Contract(allow_io_change=True),
    Contract(keep_cache_shape=True, allow_io_change=True),
)
"""What may have been agreed to, in the order in which it is tried."""


def read_claim(
    original: ModelProto, pruned: ModelProto, heads: HeadSpec | None, names: tuple[str, str]
) -> tuple[Planning, list[str]]:
    """Plans on the original what the pruned model says was done to it.

    Args:
        original: the model before the cut.
        pruned: the model after it.
        heads: what was removed; None reads the pruned model's record.
        names: how to call the two.

    Returns:
        The planning, and what is wrong with the pruned model's inputs and outputs.

    Raises:
        UsageError: if the two do not belong together, or nothing was removed.
        RefusedError: if the heads cannot be removed at all.
    """
    _check_same_names(original, pruned, names)
    spec = _recorded(original, pruned, names) if heads is None else heads
    first: tuple[Planning, list[str]] | None = None
    for contract in CONTRACTS:
        try:
            planning = analyse(original, spec, names[0], contract)
        except (UsageError, RefusedError):
            # The record may be of another model: that is the sentence to read then.
            _check_same_sites(original, pruned, sites_of(view_of(original), names[0]), names)
            raise
        _check_same_sites(original, pruned, planning.sites, names)
        if not planning.plan.removed and not fused_record(pruned):
            raise UsageError(f"no heads are named, so there is nothing to validate in {names[1]}")
        problems = _io_problems(planning, pruned, names[1])
        if not problems:
            return planning, []
        first = first or (planning, problems)
    assert first is not None
    return first


def contract_of(original: ModelProto, planning: Planning, name: str) -> Contract:
    """What was agreed to when a claim's plan was made.

    Args:
        original: the model before the cut.
        planning: of the claim.
        name: how to call the original.
    """
    heads = planning.plan.removed
    for contract in CONTRACTS:
        if analyse(original, heads, name, contract).plan.edits == planning.plan.edits:
            return contract
    return CONTRACTS[0]


def _recorded(original: ModelProto, pruned: ModelProto, names: tuple[str, str]) -> Mapping[int, list[int]]:
    """Heads per site that the pruned model's record has and the original's has not."""
    record = {cut.index: cut for cut in pruning_record(pruned)}
    if not record:
        raise UsageError(
            f"{names[1]} has no record of removed heads (metadata {REMOVED_KEY}); name them with --heads"
        )
    before = {cut.index: cut for cut in pruning_record(original)}
    spec = {}
    for index, cut in record.items():
        earlier = set(before[index].removed) if index in before else set()
        if not earlier <= set(cut.removed):
            raise UsageError(
                f"{names[0]} lacks heads of site {index} that {names[1]} still has; are the two swapped?"
            )
        spec[index] = sorted(set(cut.removed) - earlier)
    if not any(spec.values()) and not fused_record(pruned):
        raise UsageError(
            f"by its record {names[1]} lacks no head that {names[0]} has, so there is nothing to validate"
        )
    return {index: heads for index, heads in spec.items() if heads}


def _check_same_sites(original: ModelProto, pruned: ModelProto, sites: Sites, names: tuple[str, str]) -> None:
    """Whether the pruned model's record speaks of the original's sites."""
    known = {site.index: site for site in sites}
    gone = {cut.index for cut in pruning_record(original) if not cut.heads_left}
    for cut in pruning_record(pruned):
        site = known.get(cut.index)
        if cut.index in gone or (site is not None and site.original_num_heads == cut.num_heads):
            continue
        there = "is missing" if site is None else f"has {site.original_num_heads} heads"
        raise UsageError(
            f"the record of {names[1]} speaks of site {cut.index} ({cut.name}) with {cut.num_heads} heads,"
            f" which {there} in {names[0]}; the two do not belong together"
        )


def _check_same_names(original: ModelProto, pruned: ModelProto, names: tuple[str, str]) -> None:
    for what, ours, theirs in (
        ("input", _inputs(original), _inputs(pruned)),
        ("output", _outputs(original), _outputs(pruned)),
    ):
        for name in ours.keys() ^ theirs.keys():
            has, lacks = (names[0], names[1]) if name in ours else (names[1], names[0])
            raise UsageError(
                f"{has} has an {what} {name!r} that {lacks} has not; the two do not belong together"
            )
        for name, info in ours.items():
            if info.type.tensor_type.elem_type != theirs[name].type.tensor_type.elem_type:
                raise UsageError(
                    f"{what} {name!r} has another type in {names[1]}; the two do not belong together"
                )


def _io_problems(planning: Planning, pruned: ModelProto, name: str) -> list[str]:
    """Declared dimensions of the pruned model that are not what the plan makes of the original's."""
    problems = []
    declared = _inputs(pruned) | _outputs(pruned)
    before = _inputs(planning.view.model) | _outputs(planning.view.model)
    for value_name, info in declared.items():
        value = planning.view.main.values[value_name]
        tensor = info.type.tensor_type
        if value.shape is None or not tensor.HasField("shape"):
            continue
        if _contradicts(before[value_name], value.shape):
            # The original declares what it does not keep, which is no fault of the pruned model.
            continue
        live = planning.io.get(value_name)
        wanted = [d if live is None else live.narrow(d, axis) for axis, d in enumerate(value.shape)]
        found = [dim.dim_value or None for dim in tensor.shape.dim]
        differs = len(wanted) != len(found) or any(
            isinstance(w, int) and f is not None and f != w for w, f in zip(wanted, found, strict=True)
        )
        if differs:
            spelled = ", ".join(str(dim) for dim in wanted)
            shape = ", ".join("?" if dim is None else str(dim) for dim in found)
            problems.append(f"{value_name} of {name} has shape [{shape}] where [{spelled}] was expected")
    return problems


def _contradicts(info: ValueInfoProto, shape: Shape) -> bool:
    """Whether a declaration says something else than what the graph computes."""
    if not info.type.tensor_type.HasField("shape"):
        return False
    declared = [dim.dim_value or None for dim in info.type.tensor_type.shape.dim]
    return len(declared) != len(shape) or any(
        said is not None and isinstance(size, int) and said != size
        for said, size in zip(declared, shape, strict=True)
    )


def _inputs(model: ModelProto) -> dict[str, ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return {info.name: info for info in model.graph.input if info.name not in weights}


def _outputs(model: ModelProto) -> dict[str, ValueInfoProto]:
    return {info.name: info for info in model.graph.output}
