"""Does pruning one folder of the zoo give what PyTorch says? `check(folder)` answers with a `Row`.

Sites are compared with the attributes of the module. Each cut is compared with PyTorch, where its numbers are near
enough; with the masked reference, where they are not, or PyTorch cannot say; and with the second mask, which silences
heads where they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from onnxheadprune import AttentionSite, RefusedError, Sites, UsageError
from onnxheadprune.attention.masking import masked_reference
from onnxheadprune.attention.planning import Planning, analyse
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.attention.vocabulary.find import vocabularies
from onnxheadprune.attention.vocabulary.trim import indices_of, trimming
from onnxheadprune.benchmarking.flops import Flops, concrete_view
from onnxheadprune.edit.apply import apply_plan
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.operators import view_of
from onnxheadprune.runtime.tolerances import tolerance_for
from tests.zoo.core_masks import silenced_cores
from tests.zoo.cuts import Cut, NoStateError, cuts_of, head_cut
from tests.zoo.decode import can_decode, decode_error, one_pass
from tests.zoo.folder import Folder, Kept, narrowed
from tests.zoo.legal import is_legal
from tests.zoo.match import by_weight, match_sites
from tests.zoo.row import HEADS, KINDS, TOKENS, Counts, Outcome, Row, Verdict, found_counts, general
from tests.zoo.runs import Arrays, DifferentShapeError, Runner, distance

FINE = 1e-3
"""PyTorch's numbers alone decide up to this tolerance; coarser ones could hide a wrong head."""
ROUTED = ("gpt-oss", "mixtral", "qwen3-moe")
"""Rounded weights may send a token to another expert; with them, PyTorch's float32 numbers decide nothing."""

Units = Mapping[Site, tuple[int, ...]]
Ask = Callable[[Units, int], Arrays | None]
"""PyTorch's outputs without some units on one feed; None where it cannot say."""
References = Callable[[Folder, Sites], Ask]
Oracle = tuple[str, Arrays, float]
"""Who says it, what it says, and how far a cut may be from it."""


def check(path: Path, references: References | None = None, kinds: Collection[str] = KINDS) -> Row:
    """Makes every cut of a folder and compares; never raises for what the engine does.

    Args:
        path: the folder.
        references: makes what asks PyTorch for units other than heads, whose outputs the folder holds.
        kinds: of units.
    """
    return _Check(Folder(path), references).row(kinds)


class _ApartError(Exception):
    """A cut is not what it must be."""


class _Check:
    """A folder and its analysis, which is made when it is first asked for: it may be what fails."""

    def __init__(self, folder: Folder, references: References | None) -> None:
        self.folder, self.references = folder, references
        self.package = bool(folder.case.get("package"))
        self.steps = False
        self.error = 0.0

    def row(self, kinds: Collection[str]) -> Row:
        case = self.folder.case
        row = Row(*(case[name] for name in ("name", "variant", "family")), self.package, case["expect"])
        if not self.folder.has_model:
            return replace(row, failed=case["failed"])
        row = replace(
            row, true=self._true(), found=Counts((None,) * len(self.cores), (None,) * len(self.cores))
        )
        verdicts: dict[str, Verdict] = {}
        try:
            row = replace(row, **self._found())
            for kind in kinds:
                verdicts[kind] = {HEADS: self._heads, TOKENS: self._tokens}.get(
                    kind, partial(self._units, kind)
                )()
        except Exception as problem:  # whatever the engine or ONNX Runtime raises is the finding
            broken = Verdict(Outcome.ERROR, wrong=(told(problem),))
            verdicts = dict.fromkeys(kinds, broken) | verdicts
        return replace(row, verdicts=verdicts)

    @cached_property
    def view(self) -> GraphView:
        return view_of(self.folder.model)

    @cached_property
    def sites(self) -> Sites:
        return sites_of(self.view, self.folder.path.name)

    def _general(self, sentences: Collection[str]) -> tuple[str, ...]:
        """Reasons without the names of this one graph, which is looked at only where there are any."""
        return general(sentences, self.view, self.sites) if sentences else ()

    @cached_property
    def cores(self) -> list[int]:
        """The projections that stand for an attention each."""
        return [place for place, item in enumerate(self.folder.projections) if item["tied_to"] is None]

    @cached_property
    def whole(self) -> dict[int, AttentionSite] | None:
        """The site of every projection, None where one has none."""
        return match_sites(self.sites, self.folder.projections, self.folder.weights)

    @cached_property
    def matched(self) -> dict[int, AttentionSite]:
        """The site of each projection that has one."""
        return by_weight(self.sites, self.folder.weights) if self.whole is None else self.whole

    def _true(self) -> Counts:
        own, counts = (
            [self.folder.projections[core] for core in self.cores],
            self.folder.case.get("counts", {}),
        )
        layers = counts.get("layers")
        return Counts(
            tuple(item["num_heads"] for item in own),
            tuple(item["kv_num_heads"] for item in own),
            None if layers is None else tuple(layers),
            counts.get("blocks"),
        )

    def _found(self) -> dict[str, object]:
        """The units found in the graph beside those of the module."""
        own = [self.matched.get(core) for core in self.cores]
        counts, kinds = found_counts(self.sites, own)
        known = {site.index for site in self.matched.values()}
        left = [site for site in self.sites if site.index not in known]
        # A site that is refused may be an attention without a projection, which the case does not list.
        named = self.package or self.folder.case["expect"] == "no-site"
        extra = [site for site in left if site.removable] if named else []
        counted = len(self.sites.near_misses) + len(left) - len(extra) + sum(site is not None for site in own)
        return {
            "found": counts,
            "kinds": kinds,
            "extra": tuple(f"site {site.index} ({site.name})" for site in extra),
            "misses": self._general({miss.reason.sentence for miss in self.sites.near_misses}),
            "silent": max(0, len(self.cores) - counted),
        }

    def _heads(self) -> Verdict:
        """Cuts all head sets. Those of a package each concern one attention, so that one spoils no other."""
        sites, able = self.sites, self._possible
        reasons = {site.reason.sentence for site in sites if site.reason is not None}
        cuts = [
            head_cut(name, index, heads, self.matched)
            for index, (name, heads) in enumerate(self.folder.head_sets.items())
            if able(heads)
        ]
        verdict = self._made(HEADS, cuts, reasons, len(sites))
        # What mixes heads goes with all of them, so that one set of refused heads may be cut.
        if verdict.outcome.is_failure or (verdict.equal and self.folder.case["expect"] == "exact"):
            return verdict
        told = verdict.refusals or self._general({miss.reason.sentence for miss in sites.near_misses})
        if verdict.equal and not told:
            return verdict
        return replace(verdict, outcome=Outcome.REFUSED if told else Outcome.NO_SITE, refusals=told)

    def _possible(self, heads: list[list[int]]) -> bool:
        """Whether a set concerns only sites that are found, and of a package only such that can lose these heads."""
        sites = [(self.matched.get(place), removed) for place, removed in enumerate(heads) if removed]
        return all(
            site is not None and (not self.package or (site.removable and max(removed) < site.num_heads))
            for site, removed in sites
        )

    def _units(self, kind: str) -> Verdict:
        """Cuts units of another kind, of which PyTorch is asked anew."""
        found = self.sites.of(kind)
        if not found:
            return Verdict(Outcome.NO_SITE)
        reasons = {str(site.reason) for site in found if site.reason is not None}
        verdict = self._made(kind, cuts_of(self.sites, kind), reasons, len(found))
        if verdict.outcome is Outcome.REFUSED and not verdict.refusals:
            return replace(verdict, outcome=Outcome.UNEXPECTED)
        return verdict

    def _tokens(self) -> Verdict:
        """Removes the tokens that are in no feed; what is left is what PyTorch says of the others."""
        found = vocabularies(self.view)
        if not found:
            return Verdict(Outcome.NO_SITE)
        feeds, tolerance = self.folder.feeds(), self.folder.tolerance
        kept = np.unique(np.concatenate([feed[name].ravel() for feed in feeds for name in found[0].inputs]))
        try:
            made = trimming(LoadedModel(self.folder.model, self.folder.path.name), kept)
        except (RefusedError, UsageError) as refusal:
            return Verdict(Outcome.REFUSED, len(found), refusals=self._general({str(refusal)}))
        runner, exact = Runner(made.model.proto), tolerance_for(self.view).exact
        by_torch, self.error = tolerance is not None and tolerance <= FINE, 0.0
        limit = tolerance if by_torch and tolerance is not None else exact
        for at, feed in enumerate(feeds):
            got = runner(
                feed | {name: np.searchsorted(made.kept, feed[name]) for name in made.vocabulary.inputs}
            )
            want = dict(self.folder.reference(None, at) if by_torch else self.originals[at])
            for item in made.vocabulary.logits:
                _, columns = indices_of(item, made.vocabulary.rows, made.kept)
                want[item.name] = np.take(want[item.name], columns, item.axis)
            try:
                apart = self._apart(got, want)
            except _ApartError as problem:
                return Verdict(Outcome.WRONG, len(found), 1, wrong=(str(problem),))
            if apart > limit:
                return Verdict(Outcome.WRONG, len(found), 1, wrong=(f"off by {apart:.1e} on feed {at}",))
        return Verdict(Outcome.EXACT, len(found), 1, 1, int(by_torch), error=self.error)

    def _made(self, kind: str, cuts: Iterator[Cut] | list[Cut], reasons: set[str], found: int) -> Verdict:
        """Makes cuts and compares each."""
        gathers: set[str] = set()
        wrong: list[str] = []
        unexpected = ""
        compared = equal = torch = second = 0
        error, self.steps = 0.0, False
        for cut in cuts:
            shown = f"{cut.name} {cut.heads or cut.spec}"
            try:
                planning = analyse(self.folder.model, cut.spec, self.folder.path.name)
            except RefusedError as refusal:
                expected = self.package or kind != HEADS or self.folder.case["expect"] != "exact"
                if not expected and not is_legal(str(refusal), cut.heads, self.folder):
                    unexpected = f"{shown}: {refusal}"
                    break
                reasons.add(str(refusal))
                continue
            gathers |= {gather.reason for gather in planning.plan.edge_gathers}
            compared += 1
            self.error = 0.0
            try:
                said = self._compare(cut, planning)
            except _ApartError as problem:
                wrong.append(f"{shown}: {problem}")
                continue
            equal, torch, second = equal + 1, torch + ("PyTorch" in said), second + (SECOND in said)
            error = max(error, self.error)
        outcome = Outcome.REFUSED if not equal else Outcome.GATHERS if gathers else Outcome.EXACT
        if wrong or unexpected:
            outcome = Outcome.WRONG if wrong else Outcome.UNEXPECTED
            wrong += [unexpected] if unexpected else []
        return Verdict(
            outcome,
            found,
            compared,
            equal,
            torch,
            second,
            self._general(gathers),
            self._general(reasons),
            tuple(wrong),
            error,
            self.steps,
        )

    def _compare(self, cut: Cut, planning: Planning) -> set[str]:
        """Runs a cut on all feeds, and says with whom it was compared.

        Raises:
            _ApartError: if the cut is not what it must be.
        """
        folder, model = self.folder, apply_plan(planning.plan, self.folder.model)
        if cut.kind != HEADS:
            self._must_be_smaller(model, planning)
        if folder.passes_checker:
            try:
                onnx.checker.check_model(model)
            except onnx.checker.ValidationError as error:
                raise _ApartError(
                    f"the cut model is invalid: {str(error).strip().splitlines()[0]}"
                ) from error
        pruned, kept = Runner(model), folder.kept_caches(cut.heads) if cut.heads else {}
        if planning.plan.edge_gathers and cut.heads:  # a cache that could not be narrowed must then be whole
            kept |= folder.whole_caches(model)
        oracles, said = _Oracles(self, cut, planning), set()
        for feed, inputs in enumerate(folder.feeds()):
            got = pruned(narrowed(inputs, kept))
            for who, want, limit in oracles(feed, inputs):
                error = self._apart(got, narrowed(want, kept))
                if error > limit:
                    raise _ApartError(f"off by {error:.1e} from {who} on feed {feed}")
                said.add(who)
        if cut.heads:
            self._decode(pruned, kept, planning)
        return said

    def _must_be_smaller(self, model: ModelProto, planning: Planning) -> None:
        before, after = self._operations(self.folder.model), self._operations(model)
        # Experts that get some tokens each have as many operations as the input makes them have.
        routed = before.uncounted or any(site.KIND.units == "experts" for site in planning.touched)
        if not (planning.plan.elements_removed > 0 if routed else after.total < before.total):
            raise _ApartError("it computes as much as before")

    def _operations(self, model: ModelProto) -> Flops:
        """The operations of one run on the first feed."""
        names = {info.name for info in model.graph.input}
        feed = {name: array for name, array in self.folder.feeds()[0].items() if name in names}
        return Flops.of(concrete_view(model, feed))

    def _decode(self, pruned: Runner, kept: Kept, planning: Planning) -> None:
        """Steps through the narrowed cache; not where activations are quantized by each feed's own range."""
        case, tolerance = self.folder.case, self.folder.tolerance
        if tolerance is None or not can_decode(case):
            return
        whole = self.folder.feeds()[0]
        masked = Runner(masked_reference(planning.view, planning.sites, planning.heads))
        try:
            one_pass(masked, case, whole)
        except Exception:  # an export that takes no empty cache
            return
        error = decode_error(pruned, masked, case, narrowed(whole, kept), whole)
        self.error, self.steps = max(self.error, error), True
        if error > tolerance:
            raise _ApartError(f"off by {error:.1e} from one pass after the decoding steps")

    def _apart(self, got: Arrays, want: Arrays) -> float:
        error = _distance(got, want)
        self.error = max(self.error, error)
        return error

    @cached_property
    def originals(self) -> list[Arrays]:
        """The outputs of the original on each feed."""
        runner = Runner(self.folder.model)
        return [runner(feed) for feed in self.folder.feeds()]

    @cached_property
    def ask(self) -> Ask:
        """PyTorch without units, where its numbers are near enough to decide."""
        tolerance = self.folder.tolerance
        if self.references is None or tolerance is None or tolerance > FINE:
            return lambda units, feed: None
        return self.references(self.folder, self.sites)


SECOND = "the second mask"


class _Oracles:
    """Who says what a cut must give."""

    def __init__(self, check: _Check, cut: Cut, planning: Planning) -> None:
        self.check, self.folder, self.cut, self.planning = check, check.folder, cut, planning

    def __call__(self, feed: int, inputs: Arrays) -> Iterator[Oracle]:
        """Yields outputs of the whole, silenced model; caches hold all heads."""
        tolerance, exact = self.folder.tolerance, tolerance_for(self.planning.view).exact
        by_torch = self._torch(feed)
        if by_torch is not None:
            limit = tolerance or 0.0
            yield "PyTorch", by_torch, limit if self.cut.heads else self._guarded(limit, by_torch, feed)
        # Numbers as coarse as these could hide a wrong head.
        if by_torch is None or (self.cut.heads and (tolerance is None or tolerance > FINE)):
            want = self.masked(inputs)
            yield "the masked reference", want, self._guarded(exact, want, feed)
        if self.silenced is not None:
            model, taps = self.silenced
            outputs = model(inputs)
            # What is left there, like a bias, is the heads' own, and zeros at the projection say nothing of it.
            if not any(tap.rest(outputs)[0].astype(bool).any() for tap in taps):
                want = {name: outputs[name] for name in self.folder.case["outputs"]}
                yield SECOND, want, max(exact, tolerance or 0.0)

    def _torch(self, feed: int) -> Arrays | None:
        if not self.cut.heads:
            try:
                return self.check.ask(self.cut.units, feed)
            except NoStateError as problem:
                raise _ApartError(str(problem)) from problem
        routed = (
            self.folder.case["name"].removesuffix("-sdpa") in ROUTED and (self.folder.tolerance or 1.0) > FINE
        )
        if self.folder.tolerance is None or routed:
            return None
        return self.folder.reference(self.cut.index, feed)

    def _guarded(self, limit: float, want: Arrays, feed: int) -> float:
        """The tolerance, or less: a cut that hardly moves the outputs must be told from none at all."""
        if self.cut.heads:
            effect = self.folder.case["effect"][self.cut.index]
        else:
            effect = _distance(want, self.check.originals[feed])
        return min(limit, max(effect / 2, 1e-6))

    @cached_property
    def masked(self) -> Runner:
        return Runner(masked_reference(self.planning.view, self.planning.touched, self.planning.heads))

    @cached_property
    def silenced(self) -> tuple[Runner, tuple] | None:
        found = silenced_cores(self.planning)
        if not found.any or found.skipped or found.hidden:
            return None
        return Runner(found.model), found.taps


def told(problem: Exception) -> str:
    """The error, and where it was raised."""
    place = problem.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" ({Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno})"
    return f"{type(problem).__name__}: {str(problem)[:300]}{where}"


def _distance(got: Arrays, want: Arrays) -> float:
    try:
        return max(distance(got[name], value, name) for name, value in want.items())
    except DifferentShapeError as problem:
        raise _ApartError(str(problem)) from problem
