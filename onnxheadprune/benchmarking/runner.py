"""Carries a benchmark out: look at each model, agree on the grid, take turns, judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxheadprune.benchmarking.entry import Entry, Runs, differences
from onnxheadprune.benchmarking.flops import Flops
from onnxheadprune.benchmarking.measure import ROUNDS, Ratio, Series, interval, measure_round, settings_of
from onnxheadprune.benchmarking.result import Benchmark, Cell, Comparison, GridPoint, Latency, ModelFacts
from onnxheadprune.errors import InferenceError, ProviderError, UsageError
from onnxheadprune.model.load import ModelLike
from onnxheadprune.model.storage.writing import temporary_folder
from onnxheadprune.runtime import CUDA, Provider, loads_without_crash, versions
from onnxheadprune.runtime.bound import BoundOptions, BoundSession
from onnxheadprune.runtime.feeds.generate import Feed, Outputs
from onnxheadprune.runtime.memory import footprint
from onnxheadprune.runtime.providers import machine, resolve_provider
from onnxheadprune.settings.calls import BenchCall

OUTLIER = 5
"""Times the median; a 99th percentile beyond it is told as outliers. Medians do not care, tails and budgets do."""
BUSY = 0.3
"""Load average per core from which a note is worth it."""


@dataclass(frozen=True)
class Scouted:
    """Facts that are known before anything is timed."""

    points: tuple[GridPoint, ...]
    feeds: tuple[tuple[Feed, ...], ...]
    facts: tuple[ModelFacts, ...]
    options: BoundOptions
    notes: tuple[str, ...]


Progress = Callable[[str], object]


def run_benchmark(
    models: Sequence[ModelLike],
    given: BenchCall = BenchCall(),
    progress: Progress = lambda _: None,
    attention: bool = True,
    provider: Provider | None = None,
) -> Benchmark:
    """Measure models side by side, and with `attention` find its sites, for its part of the operations.

    Args:
        provider: where to run; None goes by the call.
    """
    provider = provider or resolve_provider(given.provider)
    if given.cuda_graph and provider.name != CUDA:
        raise UsageError(f"CUDA graphs need the CUDA provider, and this runs on {provider.label}")
    if given.min_speedup is not None and len(models) == 1:
        raise UsageError("`min_speedup` requires a second model")
    about = machine()
    with temporary_folder() as folder:
        entries = [
            Entry.of(model, Path(folder, str(index)), given.seed) for index, model in enumerate(models)
        ]
        for entry in entries[1:]:
            entries[0].require_same_inputs(entry)
        scouted = _scout(entries, provider, given)
        series = _measure(entries, provider, scouted, given, progress)
        facts = scouted.facts
        if given.memory:
            progress("measuring memory")
            facts = tuple(
                _with_footprint(scouted, index, entry, provider, given) for index, entry in enumerate(entries)
            )
    cells = tuple(_cells(entries, scouted, series, attention))
    used = settings_of(given, cuda_graph=scouted.options.cuda_graph)
    notes = (*scouted.notes, *_notes(about, cells))
    found = Benchmark(facts, scouted.points, cells, provider, used, versions(), about, notes)
    return found if given.min_speedup is None else replace(found, gates=found.limited(given.min_speedup))


def _scout(entries: Sequence[Entry], provider: Provider, given: BenchCall) -> Scouted:
    """One inspected session per model: the grid, the optimized graphs, and whether every model runs everywhere."""
    _check_loads(entries, provider)
    options = BoundOptions(threads=given.threads)
    inspected = replace(options, inspect=True)
    first = BoundSession(entries[0].path, provider, inspected, name=entries[0].name)

    def runs(point: GridPoint) -> InferenceError | None:
        try:
            first.bind(entries[0].feed(point))
        except InferenceError as error:
            return error
        return None

    points = _grid(given, entries, first, runs)
    own = [entries[0].feed(point) for point in points]
    feeds = [own]
    facts = [entries[0].facts(first.operators(), first.placement())]
    for entry in entries[1:]:
        session = BoundSession(entry.path, provider, inspected, name=entry.name)
        feeds.append([entry.feed(p, like=feed) for p, feed in zip(points, own, strict=True)])
        for point, feed in zip(points, feeds[-1], strict=True):
            try:
                session.bind(feed)
            except InferenceError as error:
                raise InferenceError(f"at {point.label}: {error}") from error
        found = entry.facts(session.operators(), session.placement())
        facts.append(replace(found, differences=differences(facts[0], found, entry.sites_gone)))
    every = tuple(tuple(item) for item in feeds)
    notes: tuple[str, ...] = ()
    if given.batch is None and entries[0].maker.symbols.batch and all(point.batch == 1 for point in points):
        notes = (f"{entries[0].name} takes one sample at a time, whatever its inputs declare",)
    notes += (entries[0].maker.note,) if entries[0].maker.note else ()
    if given.cuda_graph:
        options, more = _with_graphs(entries, provider, options, every)
        notes += more
    return Scouted(points, every, tuple(facts), options, notes)


def _grid(
    given: BenchCall, entries: Sequence[Entry], first: BoundSession, runs: Runs
) -> tuple[GridPoint, ...]:
    """The points to measure; where the first model runs on none, integers are read otherwise, as `validate` does."""
    maker = entries[0].maker

    def run(feed: Feed) -> Outputs:
        bound = first.bind(feed)
        bound.run()
        return bound.outputs()

    try:
        return entries[0].grid(given, runs)
    except InferenceError:
        found = maker.first_that_runs(maker.cases[0], run)
        if isinstance(found, InferenceError) or not maker.readings:
            raise
    for entry in entries[1:]:
        entry.maker.readings = maker.readings
    return entries[0].grid(given, runs)


def _check_loads(entries: Sequence[Entry], provider: Provider) -> None:
    """ONNX Runtime 1.31.1 crashes when it optimizes some float16 models; that must not take this process along."""
    for entry in entries:
        if entry.tolerance.is_low and not loads_without_crash([entry.path], provider):
            raise InferenceError(
                f"ONNX Runtime crashes when it optimizes {entry.name}, so it cannot be timed"
            )


def _with_graphs(
    entries: Sequence[Entry], provider: Provider, options: BoundOptions, feeds: Sequence[Sequence[Feed]]
) -> tuple[BoundOptions, tuple[str, ...]]:
    """CUDA graphs for all models or for none."""
    wanted = replace(options, cuda_graph=True)
    try:
        for entry, own in zip(entries, feeds, strict=True):
            session = BoundSession(entry.path, provider, wanted, name=entry.name)
            for position, feed in enumerate(own):
                bound = session.bind(feed, position + 1)
                bound.run()
                bound.run()
    except (InferenceError, ProviderError) as error:
        return options, (f"measured without CUDA graphs: {error}",)
    return wanted, ()


def _measure(
    entries: Sequence[Entry], provider: Provider, scouted: Scouted, given: BenchCall, progress: Progress
) -> list[list[Series]]:
    """Return the latencies of each model at each point."""
    series = [[Series() for _ in scouted.points] for _ in entries]
    generator = np.random.default_rng(given.seed)
    for number in range(1, ROUNDS + 1):
        sessions: dict[int, BoundSession] = {}
        for index in generator.permutation(len(entries)):
            entry = entries[index]
            sessions[index] = BoundSession(entry.path, provider, scouted.options, name=entry.name)
        for position, point in enumerate(scouted.points):
            progress(f"measuring: round {number} of {ROUNDS}, {point.label}")
            runners = [
                sessions[index].bind(feeds[position], position + 1)
                for index, feeds in enumerate(scouted.feeds)
            ]
            measure_round(runners, [own[position] for own in series], given, generator)
    return series


def _with_footprint(
    scouted: Scouted, index: int, entry: Entry, provider: Provider, given: BenchCall
) -> ModelFacts:
    largest = max(scouted.feeds[index], key=lambda feed: sum(array.nbytes for array in feed.values()))
    found = footprint(entry.path, provider, largest, threads=given.threads)
    return replace(scouted.facts[index], footprint=found)


def _cells(
    entries: Sequence[Entry],
    scouted: Scouted,
    series: Sequence[Sequence[Series]],
    attention: bool,
) -> list[Cell]:
    cells = []
    for position, point in enumerate(scouted.points):
        base: Flops | None = None
        for index, entry in enumerate(entries):
            own = series[index][position]
            flops = entry.flops(scouted.feeds[index][position], attention)
            base = base or flops
            comparison = None
            if index:
                ratio = Ratio.paired(own.blocks, series[0][position].blocks)
                comparison = Comparison(ratio, _bound(base, flops))
            cells.append(Cell(index, point, _latency(own, point), flops, comparison))
    return cells


def _bound(reference: Flops, flops: Flops) -> float | None:
    known = not reference.uncounted and not flops.uncounted and flops.total
    return reference.total / flops.total if known else None


def _latency(series: Series, point: GridPoint) -> Latency:
    _, low, high = interval(series.blocks)
    found = series.percentiles()
    return Latency(**found, low=low, high=high, throughput=point.batch / found["p50"], settled=series.settled)


def _notes(about: Mapping[str, Any], cells: Sequence[Cell]) -> list[str]:
    notes = []
    busy = about["load_average"]
    if busy is not None and busy > BUSY * about["cores"]:
        notes.append(
            f"the machine was busy before the start: load average {busy:.1f} on {about['cores']} cores"
        )
    restless = list(dict.fromkeys(cell.point.label for cell in cells if not cell.latency.settled))
    if restless:
        notes.append(f"the warm-up did not settle at {'; '.join(restless)}")
    outliers = [cell for cell in cells if cell.latency.p99 > OUTLIER * cell.latency.p50]
    if outliers:
        worst = max(outliers, key=lambda cell: cell.latency.p99 / cell.latency.p50)
        factor = worst.latency.p99 / worst.latency.p50
        notes.append(
            f"outliers: at {worst.point.label} one run in a hundred took {factor:.0f} times the median or more;"
            " something else ran on this machine, so close it or measure again"
        )
    return notes
