"""Random feeds from the graph alone, larger ones where the model needs them; feeds narrowed to the pruned model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, product
from typing import TypeAlias

import numpy as np

from onnxheadprune.errors import InferenceError, MissingKernelError, UsageError, shortage, without_frames
from onnxheadprune.liveness.interface import Interface
from onnxheadprune.liveness.live import Live
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.storage.checks import MAX_RANK
from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.feeds.fill import USUAL, Padding, Reading, Special, Style, fill, read_as
from onnxheadprune.runtime.feeds.inputs import Input, Role, graph_inputs
from onnxheadprune.runtime.feeds.symbols import Expression, Place, Roles, Sizes, numbers_for
from onnxheadprune.runtime.feeds.tables import feature_width, least_lengths, numbers_of_features

_LENGTHS = re.compile(r"_?(seq(uence)?)?_?(len|lens|lengths?|seqlens?)$")

Feed: TypeAlias = dict[str, Array]
Outputs: TypeAlias = Mapping[str, Array]

LONGER = (16, 32, 64)
"""Sequence lengths to try when the wanted one does not run."""
LARGER = (16, 32, 64, 128, 224, 256, 400, 512, 1024, 3000, 16000)
"""The same for images and audio, where convolutions ask for hundreds."""
LARGEST = {4: 512, 3: 3000, 2: 16000}
"""The largest sizes that are tried, by rank of the input: images, spectra, sampled sound. Attention is quadratic."""

MOST_READINGS, SIZES_READ = 96, 4
"""Numbers of other readings of inputs that are tried, and of sizes for each, where a model does not run."""
MOST_TOKENS = 16
"""Special ids in a row that are tried, beside numbers that the graph shows."""
PIECE = 2**21
"""Elements that are looked at together."""
MAX_ELEMENTS = 2**28
"""Of one input; more is not made up, whatever the model declares: the machine may not have as much memory."""


@dataclass(frozen=True)
class Case:
    """One feed to make."""

    batch: int  # samples
    length: int  # for the sequence
    past: int  # for the cache
    padding: Padding = Padding.NONE  # where masks have zeros
    flag: bool = True  # value of boolean flags


CASES = (
    Case(2, 7, 5),
    Case(3, 10, 4, padding=Padding.RIGHT),
    Case(1, 5, 0, flag=False),
    Case(2, 19, 3, padding=Padding.LEFT),
)
CACHE_CASES = (*CASES, Case(2, 1, 6))
"""With a cache also one decode step."""


class FeedMaker:
    """Makes random feeds for one model.

    Attributes:
        inputs: what a feed must hold.
        readings: inputs that are filled otherwise than by type and name, since the model did not run on that.
    """

    def __init__(self, view: GraphView, seed: int = 0) -> None:
        """Read the inputs of an annotated view."""
        if seed < 0:
            raise UsageError(f"a seed is a number from 0 up, not {seed}")
        self.inputs = graph_inputs(view)
        self.seed = seed
        self.readings: Mapping[str, Reading] = {}
        self._has_special = any(item.special or item.marks_places for item in self.inputs)
        self._special: Special | None = USUAL
        self._features = numbers_of_features(view) if self._has_special else ()
        expressions = [
            (item, axis, dim)
            for item in self.inputs
            for axis, dim in enumerate(item.dims)
            if isinstance(dim, Expression)
        ]
        signals = (Role.FLOATS, Role.PIXELS)
        self._roles: Roles = _roles(
            Place(name, item.name, axis, len(item.dims), item.role in signals, item.role is Role.MASK)
            for item, axis, dim in expressions
            for name in dim.symbols
        )
        least = least_lengths(view)
        self._least = max(
            (least.get(name, 0) for name in (*self._roles.length, *self._roles.extent)), default=0
        )
        """The sequence that constant indices need; unrolled loops take no other one."""
        self._capacity = max((item.capacity for item in self.inputs), default=0)
        self._has_cache = bool(self._roles.past) or any(item.is_cache for item in self.inputs)
        ranks = [len(item.dims) for item, _, dim in expressions if set(dim.symbols) & set(self._roles.extent)]
        self._largest = min((LARGEST.get(rank, 64) for rank in ranks), default=0)
        self._pinned: dict[str, int] = {}
        for item, axis, dim in expressions:
            width = feature_width(view.main.values[item.name], axis) if axis else None
            if width is not None and dim.is_symbol:
                self._pinned[dim.text] = width

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases that make sense for this model."""
        return CACHE_CASES if self._roles.past else CASES

    def candidates(self, case: Case) -> Iterator[tuple[Feed, Feed]]:
        """Feeds for one case, the wanted sizes first, then what some models need instead.

        Each comes in two styles; the second is for models that give no finite numbers on the first.
        """
        tried: set[tuple[object, ...]] = set()
        for wanted in self._sizes(case):
            sizes = self._holding(wanted)
            numbers = numbers_for(self._roles, sizes, self._pinned)
            shapes = self._shapes(numbers)
            if shapes is None or (key := tuple(shapes.items())) in tried:
                continue
            tried.add(key)
            style = Style(sizes.past, sizes.length, case.padding, case.flag, special=self._special)
            yield self._feed(shapes, style), self._feed(shapes, replace(style, plain=True))

    @property
    def symbols(self) -> Roles:
        """The names of the inputs' open dimensions, by what they stand for."""
        return self._roles

    def sized(self, sizes: Sizes, dims: Mapping[str, int] | None = None, *, flag: bool = True) -> Feed:
        """One feed of exactly these sizes, masks of ones."""
        sizes = self._holding(sizes)
        numbers = numbers_for(self._roles, sizes, self._pinned) | dict(dims or {})
        shapes = self._shapes(numbers)
        if shapes is None:
            named = ", ".join(f"{name}={size}" for name, size in numbers.items())
            raise UsageError(
                f"{named} give an input no possible shape, or more than {MAX_ELEMENTS:,} elements"
            )
        return self._feed(shapes, Style(sizes.past, sizes.length, Padding.NONE, flag, special=None))

    def _sizes(self, case: Case) -> Iterator[Sizes]:
        """From the wanted sizes to larger ones, one kind of symbol at a time.

        Each with one sample too: many models of speech are exported for that alone, whatever their inputs declare.
        """
        case = replace(case, length=max(case.length, self._least))
        for distinct in (True, False):
            for batch in dict.fromkeys((case.batch, 1)):
                yield Sizes(batch, case.past, case.length, case.length, distinct)
        if self._roles.past and case.past and case.length > 1:
            # Some fused operators take several tokens onto a cache for one sample only, or not at all.
            yield Sizes(1, case.past, case.length, case.length, distinct=True)
            yield Sizes(case.batch, 0, case.length, case.length, distinct=True)
        # One case in three stretches images and sound, where the model allows.
        wanted = (
            size
            for size in LARGER
            for size in ((size * 3 // 2, size) if case.padding is Padding.RIGHT else (size,))
        )
        for extent in wanted:
            if extent <= self._largest:
                for batch in dict.fromkeys((min(case.batch, 2), 1)):
                    yield Sizes(batch, case.past, case.length, extent, distinct=False)
        for length in (*([self._least] if self._least else ()), *LONGER):
            for batch in dict.fromkeys((case.batch, 1)):
                yield Sizes(batch, case.past, length, length, distinct=False)

    def _holding(self, sizes: Sizes) -> Sizes:
        """The sizes with a past as long as rings of windows, of which ONNX Runtime writes no more than the window."""
        return replace(sizes, past=self._capacity or sizes.past) if self._roles.past else sizes

    def _shapes(self, numbers: Mapping[str, int]) -> dict[str, tuple[int, ...]] | None:
        shapes = {}
        for item in self.inputs:
            try:
                shape = tuple(dim if isinstance(dim, int) else dim.evaluate(numbers) for dim in item.dims)
            except ArithmeticError:
                return None
            if min(shape, default=0) < 0 or len(shape) > MAX_RANK or math.prod(shape) > MAX_ELEMENTS:
                return None
            shapes[item.name] = shape
        return shapes

    def _feed(self, shapes: Mapping[str, tuple[int, ...]], style: Style) -> Feed:
        generator = np.random.default_rng(
            (self.seed, style.past, style.length, style.padding is Padding.RIGHT)
        )
        feed = {}
        for item in self.inputs:
            shape, reading = shapes[item.name], self.readings.get(item.name)
            own = style
            if not self._has_cache and (reading is not None or item.role is Role.LENGTHS):
                own = replace(
                    style, past=0, length=_counted_length(item, self.inputs, shapes) or style.length
                )
            drawn = fill(item, shape, own, generator)
            feed[item.name] = drawn if reading is None else read_as(item, shape, own, reading)
        return feed

    def first_that_runs(
        self, case: Case, run: Callable[[Feed], Outputs]
    ) -> tuple[Feed, Outputs] | InferenceError:
        """The first feed of a case that a model runs on; where none is, inputs of integers are read otherwise.

        The reading that was found is kept for further cases.

        Returns:
            The feed and the outputs, or the first error if no feed runs.
        """
        found = first_that_runs(self.candidates(case), run)
        if isinstance(found, InferenceError) and self._special is not None and self._has_special:
            matching = self._with_as_many_tokens(case, run)
            if matching is not None:
                return matching
            self._special = None
            found = first_that_runs(self.candidates(case), run)
        if not isinstance(found, InferenceError) or isinstance(found, MissingKernelError):
            return found
        usual = self.readings
        for readings in islice(_combinations(self.inputs), MOST_READINGS):
            self.readings = readings
            other = first_that_runs(islice(self.candidates(case), SIZES_READ), run)
            if not isinstance(other, InferenceError):
                return other
        self.readings = usual
        return found

    def _with_as_many_tokens(self, case: Case, run: Callable[[Feed], Outputs]) -> tuple[Feed, Outputs] | None:
        """The first feed that runs with as many special ids in a row as something has features; None without any.

        The number that was found is kept for further cases.
        """
        kinds = max(1, *(len(item.special) for item in self.inputs))
        numbers = dict.fromkeys([*self._features, *range(1, MOST_TOKENS + 1)])
        for count, which in product(numbers, range(kinds)):
            self._special = Special(count, which)
            longer = replace(case, length=max(case.length, count + 2))
            found = first_that_runs(islice(self.candidates(longer), SIZES_READ), run)
            if not isinstance(found, InferenceError):
                return found
        return None

    @property
    def note(self) -> str:
        """A note on inputs that are filled otherwise than by type and name; nothing where none is."""
        listed = ", ".join(f"{name} holds {reading.value}" for name, reading in self.readings.items())
        return f"random inputs on which the model runs: {listed}" if listed else ""


def _roles(places: Iterable[Place]) -> Roles:
    """Sort symbols by name and by where they stand.

    Args:
        places: every occurrence of a symbol in a graph input. `is_signal` says that the input holds
            floats or pixels.
    """
    seen: dict[str, list[Place]] = {}
    for place in places:
        seen.setdefault(place.symbol, []).append(place)
    sorted_out: dict[str, list[str]] = {role: [] for role in ("batch", "past", "total", "length", "extent")}
    cached = any(place.in_cache for where in seen.values() for place in where)
    for name, where in seen.items():
        sorted_out[_role(name.lower(), where, cached)].append(name)
    return Roles(**{role: tuple(names) for role, names in sorted_out.items()})


def _role(name: str, where: list[Place], cached: bool) -> str:
    foreign = "encoder" in name and "decoder" not in name
    # A cache of all layers has the batch after layers, keys and values: what other inputs say counts.
    telling = [place for place in where if not place.in_cache] or where
    if "batch" in name or all(place.axis == 0 and place.rank > 1 for place in telling):
        return "batch"
    if ("past" in name and not foreign) or (not foreign and any(place.in_cache for place in where)):
        return "past"
    # A mask spans the cache and the sequence; only exporters that name every axis apart say so like this.
    masks = all(place.is_mask and "encoder" not in place.input.lower() for place in where)
    if cached and ("total" in name or masks):
        return "total"
    masked = all(place.is_signal or place.is_mask for place in where)
    return "extent" if masked and any(place.is_signal for place in where) else "length"


def _counted_length(
    item: Input, inputs: Sequence[Input], shapes: Mapping[str, tuple[int, ...]]
) -> int | None:
    """The size of the sequence that an input of lengths measures, in a model without a cache; None where none is.

    That is the input of the same name ("mel" of "mel_lengths"), else the first one with an open axis after samples.
    """
    stem = _LENGTHS.sub("", item.name.lower())
    others = sorted(
        (other for other in inputs if other is not item),
        key=lambda other: (item.ends_generation and other.role is not Role.IDS, other.name.lower() != stem),
    )
    for other in others:
        for axis, dim in enumerate(other.dims):
            if axis and not isinstance(dim, int) and axis not in other.widths:
                return shapes[other.name][axis]
    return None


def _combinations(inputs: Sequence[Input]) -> Iterator[dict[str, Reading]]:
    """Other readings of inputs of integers and booleans: of one, of all alike, of two."""
    names = [item.name for item in inputs if item.dtype.kind in "iub" and item.role is not Role.PIXELS]
    for count in (1, len(names), 2):
        for chosen in combinations(names, count):
            alike = count > 2
            for readings in product(Reading, repeat=1 if alike else count):
                yield dict(zip(chosen, readings * count if alike else readings, strict=True))


def first_that_runs(
    candidates: Iterator[tuple[Feed, Feed]], run: Callable[[Feed], Outputs]
) -> tuple[Feed, Outputs] | InferenceError:
    """The first feed that a model runs on, of its two styles the one with finite outputs.

    Returns:
        The feed and the outputs, or if no feed runs an error: a missing kernel if one was met, else the first.
    """
    error: InferenceError | None = None
    for styles in candidates:
        fallback: tuple[Feed, Outputs] | None = None
        for feed in styles:
            try:
                outputs = run(feed)
            except InferenceError as caught:
                failed = without_frames(caught)
            except MemoryError as caught:
                # A larger input than this one needs may be too large for this machine.
                failed = InferenceError(shortage(caught))
            else:
                if all(is_finite(value) for value in outputs.values()):
                    return feed, outputs
                fallback = fallback or (feed, outputs)
                continue
            # A feed that came as far as a missing kernel says more than one that does not fit.
            if error is None or isinstance(failed, MissingKernelError):
                error = failed
        if fallback is not None:
            return fallback
    return error or InferenceError("no input of the model could be made up")


def rows_of(feed: Feed, inputs: Sequence[Input]) -> int:
    """Return the number of samples of a feed."""
    axes = ((item.name, item.batch_axis) for item in inputs)
    return next((feed[name].shape[axis] for name, axis in axes if axis is not None and feed[name].ndim), 1)


def is_finite(array: Array) -> bool:
    """Return whether an array holds neither NaN nor an infinity; true for anything that is no float."""
    return array.dtype.kind in "biuSUO" or all(np.isfinite(part).all() for part in in_pieces(array))


def in_pieces(array: Array) -> Iterator[Array]:
    """Yield all elements of an array in pieces, so that what is made of them takes little memory."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE]


def _narrow(array: Array, live: Live) -> Array:
    """The live part of a cache array of the original model, in the pruned model's shape."""
    sizes = [array.shape[axis] for axis in live.axes]
    mask = live.aligned(live.axes, sizes) != 0
    kept = Live(live.axes, mask).dense_shape()
    assert kept is not None
    count = len(live.axes)
    front = np.moveaxis(array, live.axes, range(count))
    rest = front.shape[count:]
    picked = front.reshape(math.prod(sizes), *rest)[np.flatnonzero(mask)].reshape(*kept, *rest)
    return np.moveaxis(picked, range(count), live.axes)


def narrowed(arrays: Outputs, io: Interface) -> dict[str, Array]:
    """All arrays of the original that the pruned model has too, in its shapes and under its names."""
    found = {}
    for name, value in arrays.items():
        after = io.after(name)
        if after is not None:
            found[after] = _narrow(value, io.live[name]) if name in io.live else value
    return found
