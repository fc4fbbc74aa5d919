"""Does pruning one graph of the zoo give what PyTorch says? `check` answers with a `Row`.

Sites are compared with the attributes of the module. Each cut is compared with PyTorch, where its numbers are near
enough; with the masked reference, where they are not, or PyTorch cannot say; and with the second mask, which silences
heads where they are made.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto
from torch import nn

from onnxheadprune import AttentionSite, RefusedError, Sites, UsageError, apply_plan
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import Planning, analyse
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.attention.sites.neuron_site import NeuronSite
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.vocabulary.find import vocabularies
from onnxheadprune.attention.vocabulary.trim import indices_of, trimming
from onnxheadprune.benchmarking.flops import Flops, concrete_view
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel, load_model
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.tolerances import tolerance_for
from tests.zoo.build import NotBuiltError, Original
from tests.zoo.bypass import bypassed
from tests.zoo.caches import can_decode, decode_error, kept_caches, narrowed, whole_caches
from tests.zoo.case import HeadSet
from tests.zoo.core_masks import SecondMask
from tests.zoo.cuts import Cut, NoStateError, cuts_of, head_cut
from tests.zoo.match import by_weight, match_sites
from tests.zoo.row import EXPERTS, HEADS, KINDS, LAYERS, TOKENS, Counts, Outcome, Row, Verdict, found_counts
from tests.zoo.runs import Arrays, DifferentShapeError, Runner, distances
from tests.zoo.silence import without_experts, without_neurons

FINE = 1e-3
"""PyTorch's numbers alone decide up to this tolerance; coarser ones could hide a wrong head."""
ROUTED = ("gpt-oss", "mixtral", "qwen3-moe")
"""Rounded weights may send a token to another expert; with them, PyTorch's float32 numbers decide nothing."""
TORCH, SECOND = "PyTorch", "the second mask"
LEGAL = re.compile(
    r"MatMulNBits packs|the last block of .* is not full|packs the zero points of"
    r"|share (blocks|bytes of zero points) of its packed projection"
    # The range of queries, keys or weights is taken over all heads together.
    r"|DynamicQuantizeLinear mixes values across heads"
)
LEGAL_FOR_WHOLE_SITES = re.compile(r"with nothing left to sum up cannot be expressed as a constant")
"""Refusals that are legal answers where pruning is expected."""

Units = Mapping[Site, tuple[int, ...]]
Oracle = tuple[str, Arrays, float]
"""Who says it, what it says, and how far a cut may be from it."""


def check(original: Original, variant: str, kinds: Collection[str] = KINDS) -> Row:
    """Make every cut of a graph and compare; never raise for what the engine does.

    Args:
        original: the architecture.
        variant: of its export.
        kinds: of units.
    """
    case = original.case
    row = Row(case.name, variant, case.family, bool(case.package), case.expect)
    try:
        path = original.export(variant)
    except NotBuiltError as problem:
        return replace(row, failed=str(problem))
    unknown = (None,) * len(original.counts.heads)
    row = replace(row, true=original.counts, found=Counts(unknown, unknown))
    verdicts: dict[str, Verdict] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of libraries about deprecated calls are no fault of the graph
        try:
            checking = _Check(original, variant, load_model(path))
            row = replace(row, **checking.found())
            for kind in kinds:
                make = {HEADS: checking.heads, TOKENS: checking.tokens}.get(kind)
                verdicts[kind] = checking.units(kind) if make is None else make()
        except Exception as problem:  # whatever the engine or ONNX Runtime raises is the finding
            broken = Verdict(Outcome.ERROR, wrong=(_told(problem),))
            verdicts = dict.fromkeys(kinds, broken) | verdicts
    return replace(row, verdicts=verdicts)


class _ApartError(Exception):
    """A cut is not what it must be."""


class _Check:
    """A graph and its analysis."""

    def __init__(self, original: Original, variant: str, model: ModelProto) -> None:
        self.original, self.case, self.model = original, original.case, model
        self.name, self.tolerance = f"{self.case.name}.{variant}", original.tolerance(variant)
        self.package = bool(self.case.package)
        self.view: GraphView = view_of(model)
        self.sites: Sites = sites_of(self.view, self.name)
        self.feeds = [self.case.arrays(feed) for feed in range(len(self.case.feeds))]
        self.error, self.steps = 0.0, False
        whole = match_sites(self.sites, self.case.projections, original.weights)
        self.matched: Mapping[int, AttentionSite] = (
            by_weight(self.sites, original.weights) if whole is None else whole
        )

    @cached_property
    def passes_checker(self) -> bool:
        """Whether `onnx.checker` takes the graph as it is (it knows none of ONNX Runtime's own operators)."""
        try:
            onnx.checker.check_model(self.model)
        except onnx.checker.ValidationError:
            return False
        return True

    @cached_property
    def originals(self) -> list[Arrays]:
        """The outputs of the original on each feed."""
        return list(map(Runner(self.model), self.feeds))

    def found(self) -> dict[str, object]:
        """The units found in the graph."""
        cores = [place for place, item in enumerate(self.case.projections) if item.tied_to is None]
        own = [self.matched.get(core) for core in cores]
        known = {site.index for site in self.matched.values()}
        left = [site for site in self.sites if site.index not in known]
        # A site that is refused may be an attention without a projection, which the case does not list.
        named = self.package or self.case.expect == "no-site"
        extra = [site for site in left if site.removable] if named else []
        counted = len(self.sites.near_misses) + len(left) - len(extra) + sum(site is not None for site in own)
        return {
            "found": found_counts(self.sites, own),
            "extra": tuple(f"site {site.index} ({site.name})" for site in extra),
            "silent": max(0, len(cores) - counted),
        }

    def heads(self) -> Verdict:
        """Cuts all head sets. Those of a package each concern one attention, so that one spoils no other."""
        sets = self.original.sets
        cuts = [head_cut(name, heads, self.matched) for name, heads in sets.items() if self._possible(heads)]
        verdict = self._made(
            HEADS, cuts, {str(site.reason) for site in self.sites if site.reason}, len(self.sites)
        )
        # What mixes heads goes with all of them, so that one set of refused heads may be cut.
        if verdict.outcome.is_failure or (verdict.equal and self.case.expect == "exact"):
            return verdict
        told = verdict.refusals or tuple(sorted({miss.reason.sentence for miss in self.sites.near_misses}))
        if verdict.equal and not told:
            return verdict
        return replace(verdict, outcome=Outcome.REFUSED if told else Outcome.NO_SITE, refusals=told)

    def _possible(self, heads: HeadSet) -> bool:
        """Whether a set concerns only sites that are found, and of a package only such that can lose these heads."""
        sites = [(self.matched.get(place), removed) for place, removed in enumerate(heads) if removed]
        return all(
            site is not None and (not self.package or (site.removable and max(removed) < site.num_heads))
            for site, removed in sites
        )

    def units(self, kind: str) -> Verdict:
        """Cuts units of another kind."""
        found = self.sites.of(kind)
        if not found:
            return Verdict(Outcome.NO_SITE)
        reasons = {str(site.reason) for site in found if site.reason}
        verdict = self._made(kind, cuts_of(self.sites, kind), reasons, len(found))
        if verdict.outcome is Outcome.REFUSED and not verdict.refusals:
            return replace(verdict, outcome=Outcome.UNEXPECTED)
        return verdict

    def tokens(self) -> Verdict:
        """Removes the tokens that are in no feed; what is left is what PyTorch says of the others."""
        found = vocabularies(self.view)
        if not found:
            return Verdict(Outcome.NO_SITE)
        kept = np.unique(
            np.concatenate([feed[name].ravel() for feed in self.feeds for name in found[0].inputs])
        )
        try:
            made = trimming(LoadedModel(self.model, self.name), kept)
        except (RefusedError, UsageError) as refusal:
            return Verdict(Outcome.REFUSED, len(found), refusals=(str(refusal),))
        runner, limit = Runner(made.model.proto), tolerance_for(self.view).exact
        by_torch = self.tolerance is not None and self.tolerance <= FINE
        limit, self.error = self.tolerance if by_torch and self.tolerance else limit, 0.0
        for at, feed in enumerate(self.feeds):
            got = runner(
                feed | {name: np.searchsorted(made.kept, feed[name]) for name in made.vocabulary.inputs}
            )
            want = dict(self.original.full[at] if by_torch else self.originals[at])
            for item in made.vocabulary.logits:
                _, columns = indices_of(item, made.vocabulary.rows, made.kept)
                want[item.name] = np.take(want[item.name], columns, item.axis)
            try:
                self._require(got, (TORCH if by_torch else "the original", want, limit), at)
            except _ApartError as problem:
                return Verdict(Outcome.WRONG, len(found), 1, wrong=(str(problem),))
        return Verdict(Outcome.EXACT, len(found), 1, 1, int(by_torch), error=self.error)

    def _made(self, kind: str, cuts: Iterable[Cut], reasons: set[str], found: int) -> Verdict:
        """Makes cuts and compares each."""
        wrong: list[str] = []
        outcome, compared, said = Outcome.REFUSED, 0, list[set[str]]()
        error, self.steps = 0.0, False
        for cut in cuts:
            shown = f"{cut.name} {cut.heads or cut.spec}"
            try:
                planning = analyse(self.model, cut.spec, self.name)
            except RefusedError as refusal:
                if kind == HEADS and not self._is_legal(str(refusal), cut.heads):
                    wrong.append(f"{shown}: {refusal}")
                    outcome = Outcome.UNEXPECTED
                    break
                reasons.add(str(refusal))
                continue
            compared, self.error = compared + 1, 0.0
            try:
                said.append(self._compare(cut, planning))
            except _ApartError as problem:
                wrong.append(f"{shown}: {problem}")
                continue
            error = max(error, self.error)
            if outcome is not Outcome.GATHERS:
                outcome = Outcome.GATHERS if planning.plan.edge_gathers else Outcome.EXACT
        if wrong and outcome is not Outcome.UNEXPECTED:
            outcome = Outcome.WRONG
        torch, second = (sum(who in names for names in said) for who in (TORCH, SECOND))
        told = tuple(sorted(reasons)), tuple(wrong)
        return Verdict(outcome, found, compared, len(said), torch, second, *told, error, self.steps)

    def _is_legal(self, refusal: str, heads: HeadSet) -> bool:
        """Whether a head set may be refused for this reason."""
        if self.package or self.case.expect != "exact" or LEGAL.search(refusal):
            return True
        whole = any(
            len(gone) == item.num_heads for gone, item in zip(heads, self.case.projections, strict=True)
        )
        return whole and bool(LEGAL_FOR_WHOLE_SITES.search(refusal))

    def _compare(self, cut: Cut, planning: Planning) -> set[str]:
        """Runs a cut on all feeds, and says with whom it was compared.

        Raises:
            _ApartError: if the cut is not what it must be.
        """
        model = apply_plan(planning.plan, self.model)
        if cut.kind != HEADS:
            self._must_be_smaller(model, planning)
        if self.passes_checker:
            try:
                onnx.checker.check_model(model)
            except onnx.checker.ValidationError as error:
                raise _ApartError(
                    f"the cut model is invalid: {str(error).strip().splitlines()[0]}"
                ) from error
        kept = kept_caches(self.case, cut.heads) if cut.heads else {}
        if planning.plan.edge_gathers and cut.heads:  # a cache that could not be narrowed must then be whole
            kept = {**kept, **whole_caches(self.case, model)}
        pruned, oracles, said = Runner(model), _Oracles(self, cut, planning), set()
        for feed, inputs in enumerate(self.feeds):
            got = pruned(narrowed(inputs, kept))
            for who, want, limit in oracles(feed, inputs):
                self._require(got, (who, narrowed(want, kept), limit), feed)
                said.add(who)
        if cut.heads and self.tolerance is not None and can_decode(self.case):
            # Not where activations are quantized by each feed's own range.
            masked = Runner(masked_reference(planning.view, planning.sites, planning.heads))
            error = decode_error(pruned, masked, self.case, kept)
            self.steps, self.error = self.steps or error is not None, max(self.error, error or 0.0)
            if error is not None and error > self.tolerance:
                raise _ApartError(f"off by {error:.1e} from one pass after the decoding steps")
        return said

    def _require(self, got: Arrays, oracle: Oracle, feed: int) -> None:
        who, want, limit = oracle
        try:
            error = distances(got, want)
        except DifferentShapeError as problem:
            raise _ApartError(str(problem)) from problem
        self.error = max(self.error, error)
        if error > limit:
            raise _ApartError(f"off by {error:.1e} from {who} on feed {feed}")

    def _must_be_smaller(self, model: ModelProto, planning: Planning) -> None:
        before, after = self._operations(self.model), self._operations(model)
        # Experts that get some tokens each have as many operations as the input makes them have.
        routed = before.uncounted or any(site.KIND.units == EXPERTS for site in planning.touched)
        if not (planning.plan.elements_removed > 0 if routed else after.total < before.total):
            raise _ApartError("it computes as much as before")

    def _operations(self, model: ModelProto) -> Flops:
        """The operations of one run on the first feed."""
        names = {info.name for info in model.graph.input}
        return Flops.of(
            concrete_view(model, {name: self.feeds[0][name] for name in names & self.feeds[0].keys()})
        )

    def without(self, units: Units) -> nn.Module | None:
        """PyTorch's model without units other than heads, None where that is unknown."""
        module, case, kinds = self.original.module, self.case, {site.KIND.units for site in units}
        if LAYERS in kinds:
            return bypassed(module, case, self.sites.of(LAYERS), list(units))
        if EXPERTS in kinds:
            return without_experts(module, units, self.sites.of(EXPERTS))
        neurons = {site: gone for site, gone in units.items() if isinstance(site, NeuronSite)}
        return without_neurons(module, case, neurons, self.sites.neurons)


class _Oracles:
    """Who says what a cut must give."""

    def __init__(self, check: _Check, cut: Cut, planning: Planning) -> None:
        self.check, self.cut, self.planning = check, cut, planning

    def __call__(self, feed: int, inputs: Arrays) -> Iterator[Oracle]:
        """Yields outputs of the whole, silenced model; caches hold all heads."""
        tolerance, exact = self.check.tolerance, tolerance_for(self.planning.view).exact
        by_torch = self._torch(feed)
        if by_torch is not None and tolerance is not None:
            yield TORCH, by_torch, tolerance if self.cut.heads else self._guarded(tolerance, by_torch, feed)
        # Numbers as coarse as these could hide a wrong head.
        if by_torch is None or (self.cut.heads and (tolerance is None or tolerance > FINE)):
            want = self._masked(inputs)
            yield "the masked reference", want, self._guarded(exact, want, feed)
        if self._second is not None and (outputs := self._second(inputs)) is not None:
            want = {name: outputs[name] for name in self.check.case.outputs}
            yield SECOND, want, max(exact, tolerance or 0.0)

    def _torch(self, feed: int) -> Arrays | None:
        check, tolerance = self.check, self.check.tolerance
        if self.cut.heads:
            routed = check.case.name.removesuffix("-sdpa") in ROUTED and (tolerance or 1.0) > FINE
            is_coarse = tolerance is None or routed
            return None if is_coarse else check.original.silenced(self.cut.name, self.cut.heads, feed)
        try:
            return None if self._module is None else check.case.outcome(self._module, feed)
        except NoStateError as problem:
            raise _ApartError(str(problem)) from problem

    @cached_property
    def _module(self) -> nn.Module | None:
        """PyTorch without units, where its numbers are near enough to decide."""
        if self.check.tolerance is None or self.check.tolerance > FINE:
            return None
        return self.check.without(self.cut.units)

    def _guarded(self, limit: float, want: Arrays, feed: int) -> float:
        """The tolerance, or less: a cut that hardly moves the outputs must be told from none at all."""
        if self.cut.heads:
            effect = self.check.original.effect(self.cut.name, self.cut.heads)
        else:
            effect = distances(want, self.check.originals[feed])
        return min(limit, max(effect / 2, 1e-6))

    @cached_property
    def _masked(self) -> Runner:
        return Runner(masked_reference(self.planning.view, self.planning.touched, self.planning.heads))

    @cached_property
    def _second(self) -> SecondMask | None:
        try:
            return SecondMask(self.planning)
        except NotImplementedError:
            return None


def _told(problem: Exception) -> str:
    """The error, and where it was raised."""
    place = problem.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" ({Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno})"
    return f"{type(problem).__name__}: {str(problem)[:300]}{where}"
