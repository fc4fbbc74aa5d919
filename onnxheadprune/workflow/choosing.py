"""Selection where a request does not name what to remove: from a target to units and refitted weights.

A speed-up or a drift is searched for by bisection on real pruned models, measured on this machine.
"""

from __future__ import annotations

from dataclasses import replace

from onnxheadprune.attention.main_graph_copy import first_tokens, main_graph_copy
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import analysis_of
from onnxheadprune.choosing.activations.parts import Parts, Running
from onnxheadprune.choosing.space import SearchSpace, Selection
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.display.spelling import many
from onnxheadprune.errors import RefusedError
from onnxheadprune.liveness.interface import AS_BEFORE
from onnxheadprune.model.load import LARGE, LoadedModel, stored_bytes
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.feeds.data import DataSource
from onnxheadprune.runtime.progress import Note, Progress
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.settings.measuring import Timing
from onnxheadprune.settings.setting import part_of
from onnxheadprune.settings.units import UnitKind, kinds_of
from onnxheadprune.workflow.choice.chosen import Chosen, Trial
from onnxheadprune.workflow.choice.completing import completed, drift, named
from onnxheadprune.workflow.choice.cutting import Cutter
from onnxheadprune.workflow.choice.size import NOTHING_ELSE, FileSize
from onnxheadprune.workflow.requests import Request

ROUNDING = 1e-3
"""Part of a limit on drift that is left free: other kernels and batches of the same model round otherwise."""
SAMPLES_TO_VALIDATE = 128
"""Samples of calibration data that a compensated model is proven on, beside the random feeds."""


def chosen_for(
    model: LoadedModel,
    request: Request,
    provider: Provider | None,
    progress: Progress,
    original: LoadedModel,
) -> tuple[Chosen, DataSource | None]:
    """The heads that meet a target, or the given heads, with refitted weights.

    Args:
        original: what the model was made of, by removing tokens or making an exit permanent.
        provider: where to run; None resolves the requested one when it is needed.
    """
    data, call = request.data, request.call
    where = provider or resolve_provider(call.provider)
    first = None if data is None else first_tokens(model)
    beside = None if data is None or first is not None else main_graph_copy(model)
    if beside is not None and call.target_speedup is not None:
        raise RefusedError(
            f"how fast {model.name} is depends on the branches that its inputs take, so no cut is searched for by its"
            f" speed; make an exit permanent with `exit`, or use `ratio`"
        )
    cutter = Cutter(first or beside or model, data, where, request, progress)
    size = FileSize.of(original, model)
    chosen = choose(cutter, size) if call.has_target else named(cutter, request.heads or {})
    if first is not None:
        chosen = _for_all_tokens(chosen, cutter.sites, model)
    if beside is not None:
        chosen = _for_branches(chosen, cutter)
    if cutter.held is None:
        return chosen, None
    # Exactness shows on few samples; more would only take time.
    part = cutter.work.to_run(cutter.held).subset(SAMPLES_TO_VALIDATE)
    # A proof has half a dozen models side by side, and each of them holds what it computes of a feed.
    part = replace(part, most=1) if stored_bytes(model.proto) > LARGE else part
    return chosen, _known(part, chosen, cutter)


def _known(part: Calibration, chosen: Chosen, cutter: Cutter) -> Calibration:
    """The data to validate on, with a description of what refits and trainings used."""
    assert cutter.data is not None
    of = f"{part.count:,} of {many(cutter.data.total, cutter.data.unit)}"
    trained = chosen.recovery is not None and chosen.numbers is chosen.recovery
    basis = chosen.basis
    role = replace(basis, measured_on=f"{basis.measured_on} ({of})")
    return replace(part, role=role, unseen=trained and chosen.held_out)


def _for_branches(chosen: Chosen, cutter: Cutter) -> Chosen:
    """The selection made on a model that runs all branches, for the one that runs one branch at a time."""
    assert cutter.learn is not None
    data = cutter.learn
    sites = [site for site in cutter.sites.known if site.removable and site.projections]
    parts = Parts(cutter.view, cutter.provider)
    running = Running(
        parts, [item.node for site in sites for item in site.projections], data.feeds, data.source
    )
    left = [
        site.label
        for site in sites
        if not any(running.is_reached(item.node, range(len(data.feeds))) for item in site.projections)
    ]
    return replace(chosen, plan=None, io=AS_BEFORE, unreached=tuple(left))


def _for_all_tokens(chosen: Chosen, sites: Sites, model: LoadedModel) -> Chosen:
    """The selection made on the model for the first tokens, for the merged model, whose sites have the same numbers."""
    others = kinds_of(chosen.selection.heads)
    whole = analysis_of(model).sites if others else sites
    for kind in others:
        if _outlines(kind, whole) != _outlines(kind, sites):
            raise RefusedError(
                f"the {kind.title}s of {model.name} are not the same in both branches, so no {kind.units} are chosen"
                " on data; choose heads alone, or cut the decoders that are not merged"
            )
    shared = {tensor.name for tensor in model.proto.graph.initializer}
    own = set() if chosen.numbers is None else set(chosen.numbers.stored) - shared
    if own:
        raise RefusedError(
            f"{model.name} stores {', '.join(sorted(own)[:3])} apart for its first tokens, so refitted weights would"
            f" not reach the others; choose the same heads with `refit=False`"
        )
    return replace(chosen, plan=None, io=AS_BEFORE)


def _outlines(kind: UnitKind, sites: Sites) -> list[tuple[int, str, int]]:
    return [(site.index, site.name, site.num_units) for site in sites.of(kind.units)]


def choose(cutter: Cutter, size: FileSize) -> Chosen:
    """Select heads that meet the target of a call, with refitted weights if requested."""
    call = cutter.request.call
    if call.max_drift is not None:
        cutter.hold_out("a drift is measured on data")
        return _largest_near(cutter, cutter.search_space(), call.max_drift)
    if call.target_speedup is not None:
        from onnxheadprune.workflow.choice.latency import by_latency, smallest_fast

        timing = part_of(Timing, call) if isinstance(call, Timing) else Timing()
        space = by_latency(cutter, cutter.search_space(), timing)
        return smallest_fast(cutter, space, call.target_speedup, timing)

    if call.target_size is not None and size.fits(call.target_size):
        return cutter.planned(Chosen(Selection({}, NOTHING_ELSE)))

    foreseen: list[Selection] = []

    def asked(space: SearchSpace) -> Selection:
        if call.target_size is not None:
            return size.smallest_cut(cutter, space, call.target_size)
        found = space.ratio(call.ratio) if call.ratio is not None else space.keeping(call.keep or 0)
        if not foreseen:
            # All units of a site have one size, so that of the file is known before costs are measured.
            foreseen.append(found)
            cutter.progress(Note(size.words(cutter, found)), 0, 0)
        return found

    return completed(cutter, asked(cutter.search_space(asked)))


def _largest_near(cutter: Cutter, space: SearchSpace, limit: float) -> Chosen:
    """The largest cut that stays within a drift.

    Held-out data estimates the drift on new data, and a later `validate` uses all of the data: the drift
    on both stays within the limit.
    """
    most = space.most()
    # Each halving of the range is a trial, and the first one asks whether all may go.
    among = most.bit_length() + 1
    allowed = limit * (1 - ROUNDING)
    trials: list[Trial] = []
    tried: dict[int, Chosen] = {}

    def too_far(count: int) -> bool:
        if not space.has_cut(count):
            return False
        chosen = completed(cutter, space.removing(count), among)
        far = _largest_drift(cutter, chosen, allowed)
        trial = Trial(chosen.selection.count, far, far <= allowed)
        tried[count] = chosen
        trials.append(trial)
        cutter.progress(
            f"measuring: without {trial.removed} {space.units} the drift is {far:.2g}", len(trials), 0
        )
        # What is no number is not near.
        return not trial.meets

    count = space.smallest(too_far) - 1 if too_far(most) else most
    if not trials:
        raise RefusedError(
            "no head can be removed: protected heads, minimums and groups of KV heads leave none"
        )
    if not any(trial.meets for trial in trials):
        unit = next(iter(tried.values())).unit
        raise RefusedError(
            f"no cut stays within a drift of {limit:g}: the smallest drifts {trials[-1].measured:.2g} ({unit})"
        )
    chosen = tried[count] if count in tried else completed(cutter, space.removing(count), among)
    return replace(chosen, trials=tuple(trials))


def _largest_drift(cutter: Cutter, chosen: Chosen, allowed: float) -> float:
    """The larger of the drifts on held-out data and on all data; the second is skipped if the first is too large."""
    assert cutter.data is not None and chosen.drift is not None
    if not chosen.drift <= allowed:
        return chosen.drift
    return max(chosen.drift, drift(cutter, chosen, cutter.data.batches).mean())
