"""The claim of a pruned model: the heads that were removed, as seen from the original.

The claim is read from the pruned model's record, then planned again on the original. Nothing of the
pruned model's graph is trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto, ValueInfoProto

from onnxheadprune.attention.cut_edits import Bypass
from onnxheadprune.attention.io_changes import Cache, Contract
from onnxheadprune.attention.planning import Planning, planned
from onnxheadprune.attention.sites.find import Analysis, analysis_of, recognised
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.specs import HeadSpec, resolve_units
from onnxheadprune.edit.edits import SetRecord
from onnxheadprune.edit.records import (
    HEADS,
    RECORD_KEY,
    Record,
    RecordedContract,
    RecordedUnits,
    RefitRecord,
    record_of,
)
from onnxheadprune.errors import HeadPruneError, UsageError
from onnxheadprune.liveness.interface import AS_BEFORE, Interface
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure
from onnxheadprune.settings.units import KINDS, LAYER, UnitKind, called


@dataclass(frozen=True, eq=False)
class Claim:
    """The cut that a pruned model claims, as a plan for its original."""

    planning: Planning  # the cut, planned on the original
    fused: tuple[int, ...]  # indices of the original's sites that are fused
    refit: RefitRecord | None  # the refitted tensors, None without
    problems: tuple[str, ...]  # what is wrong with the order of the pruned model's inputs and outputs
    contract: Contract  # what was agreed to


def read_claim(
    original: LoadedModel,
    pruned: ModelProto,
    heads: HeadSpec | None,
    names: tuple[str, str],
    *,
    left: bool = False,
) -> Claim:
    """Plan on the original what the pruned model says was done to it.

    Args:
        left: something else is claimed, too (a permanent exit or fewer tokens, which `original` has), so that no unit
            need be gone.
    """
    theirs, ours = record_of(pruned), record_of(original.proto)
    if not theirs.contract.dropped_caches:
        _check_same_names(original.proto, pruned, names, AS_BEFORE)
    analysis = analysis_of(original.changed(original.proto, names[0]))
    pairs = _paired(theirs.of(HEADS), analysis.sites)
    known = {site.index for site in analysis.sites} | {entry.number for entry in ours.of(HEADS)}
    agreed = _agreed(theirs.contract, pairs, known, names)
    dropped = tuple(site for site in agreed.dropped_caches if site not in ours.contract.dropped_caches)
    cache: Cache = "renumber" if dropped else "keep" if agreed.kept_caches else "narrow"
    contract = Contract(cache, bool(agreed.narrowed), replace(agreed, dropped_caches=dropped))
    fused = tuple(sorted(_ours((site.index for site in theirs.fused), "a fusion of", pairs, known, names)))
    if heads is None and not left and not theirs.removes_units:
        raise UsageError(
            f"{names[1]} has no record of removed heads (metadata {RECORD_KEY}); name them"
            f" with `heads`"
            + (f", or give the original first: {names[0]} has such a record" if ours.removes_units else "")
        )
    recorded = _recorded(LAYER, theirs, analysis, names)
    layers = resolve_units(recorded, analysis.sites) if recorded else {}
    bypass = Bypass.of(analysis.view, analysis.sites.losing(layers))
    for kind in KINDS:
        recorded |= _recorded(kind, theirs, analysis, names, bypass)
    spec = recorded if heads is None else heads
    if not spec and not fused and not left:
        raise UsageError(
            f"by its record {names[1]} lacks no head that {names[0]} has, so there is nothing to validate"
        )
    planning = planned(analysis, spec, contract)
    if not planning.plan.cuts_something and not fused and not left:
        raise UsageError(f"no heads are named, so there is nothing to validate in {names[1]}")
    _check_same_names(original.proto, pruned, names, planning.io)
    problems = [*_order_problems(original.proto, pruned, planning.io, names[1])]
    made = next(item.edit for item in planning.plan.edits if isinstance(item.edit, SetRecord))
    if made.contract != agreed:
        problems.append(
            f"the record of {names[1]} claims other changes of inputs and outputs than the cut makes"
        )
    return Claim(planning, fused, theirs.refit, tuple(problems), contract)


def _agreed(
    contract: RecordedContract, pairs: Mapping[int, Site], known: Collection[int], names: tuple[str, str]
) -> RecordedContract:
    """The contract of the pruned model, with the indices of the original's sites."""
    kept, dropped = (
        tuple(sorted(_ours(sites, "the cache of", pairs, known, names)))
        for sites in (contract.kept_caches, contract.dropped_caches)
    )
    return RecordedContract(kept, dropped, contract.narrowed)


def require_recorded(original: ModelLike, pruned: ModelLike, heads: HeadSpec) -> None:
    """Check that named heads are those of the pruned model's record, if it has one."""
    before, after = open_structure(original), open_structure(pruned)
    names = before.name, after.name
    try:
        planning = read_claim(before, after.proto, None, names).planning
        recorded = " ".join(planning.parts)
        named = " ".join(read_claim(before, after.proto, heads, names).planning.parts)
    except HeadPruneError:
        # Without a record the heads that are named count; what else is wrong the proof says.
        return
    if recorded != named:
        raise UsageError(
            f"{names[1]} records that {recorded} is removed, and `heads` names {named};"
            f" leave `heads` out to validate"
            " what is recorded"
        )


def _ours(
    indices: Iterable[int],
    what: str,
    pairs: Mapping[int, Site],
    ours: Collection[int],
    names: tuple[str, str],
) -> set[int]:
    """The original's sites that the pruned model's record means by indices."""
    found = {pairs[index].index if index in pairs else index for index in indices}
    for index in sorted(found.difference(ours)):
        raise UsageError(
            f"the record of {names[1]} speaks of {what} {called(index)}, which is missing in {names[0]}; the two do not"
            " belong together"
        )
    return found


def _paired(record: Sequence[RecordedUnits], sites: Sequence[Site]) -> dict[int, Site]:
    """The original's site that each entry of the pruned model's record speaks of, by the entry's number."""
    known = recognised(sites, record)
    named = {known[site.index].number: site for site in sites if site.index in known}
    numbered = {site.number: site for site in sites if site.index not in known}
    return named | {
        entry.number: numbered[entry.number]
        for entry in record
        if entry.number not in named and entry.number in numbered
    }


def _recorded(
    kind: UnitKind,
    theirs: Record,
    analysis: Analysis,
    names: tuple[str, str],
    bypass: Bypass | None = None,
) -> dict[str, list[int]]:
    """Units of one kind that the pruned model's record lists as removed and the original still has, per site.

    Args:
        bypass: removed layers, with which what lies in them is removed.
    """
    record = theirs.of(kind.units)
    if not record:
        return {}
    # Sites that the original has lost, as a whole or with an expert, are in its record alone.
    gone = {entry.number: entry for entry in record_of(analysis.view.model).of(kind.units)}
    pairs = _paired(record, analysis.sites.of(kind.units))
    spec: dict[str, list[int]] = {}
    for entry in record:
        site = pairs.get(entry.number)
        before = gone.get(entry.number) if site is None or entry.states else None
        before = site.recorded() if before is None and site is not None else before
        named = entry.counted(kind.units)
        ours = "" if before is None else before.counted(kind.units)
        if before is None or ours != named:
            there = f"has {ours}" if ours else "is missing"
            raise UsageError(
                f"the record of {names[1]} speaks of {kind.called(entry.number)} ({entry.name}) with {named}, which"
                f" {there} in {names[0]}; the two do not belong together"
            )
        if not set(before.removed) <= set(entry.removed):
            raise UsageError(
                f"{names[0]} lacks {kind.units} of {kind.called(entry.number)} that {names[1]} still has; are the two"
                " swapped?"
            )
        units = sorted(set(entry.removed) - set(before.removed))
        within = bypass is not None and site is not None and bypass.covers(site)
        if units and not within:
            spec[f"{kind.key}{before.number}"] = units
    return spec


def _check_same_names(
    original: ModelProto, pruned: ModelProto, names: tuple[str, str], io: Interface
) -> None:
    for what, before, theirs in (
        ("input", _inputs(original), _inputs(pruned)),
        ("output", _outputs(original), _outputs(pruned)),
    ):
        ours = {after: info for name, info in before.items() if (after := io.after(name)) is not None}
        for name in sorted(ours.keys() ^ theirs.keys()):
            has, lacks = (names[0], names[1]) if name in ours else (names[1], names[0])
            raise UsageError(
                f"{has} has an {what} {name!r} that {lacks} has not; the two do not belong together"
            )
        for name, info in ours.items():
            if info.type.tensor_type.elem_type != theirs[name].type.tensor_type.elem_type:
                raise UsageError(
                    f"{what} {name!r} has another type in {names[1]}; the two do not belong together"
                )


def _order_problems(original: ModelProto, pruned: ModelProto, io: Interface, name: str) -> Iterator[str]:
    """Yield whether who reads inputs and outputs by their position gets what the original gives there."""
    for what, before, listed in (
        ("inputs", [*_inputs(original)], [*_inputs(pruned)]),
        ("outputs", _listed(original), _listed(pruned)),
    ):
        ours = [after for earlier in before if (after := io.after(earlier)) is not None]
        if ours != listed:
            how = "in another order" if sorted(ours) == sorted(listed) else "more or less often"
            yield f"{name} lists its {what} {how}: {', '.join(listed)} in place of {', '.join(ours)}"


def _listed(model: ModelProto) -> list[str]:
    """The names of outputs, each as often as it is listed."""
    return [info.name for info in model.graph.output]


def _inputs(model: ModelProto) -> dict[str, ValueInfoProto]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return {info.name: info for info in model.graph.input if info.name not in weights}


def _outputs(model: ModelProto) -> dict[str, ValueInfoProto]:
    return {info.name: info for info in model.graph.output}
