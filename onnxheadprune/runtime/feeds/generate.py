"""Random feeds from the graph alone, larger ones where the model needs them; feeds narrowed to the pruned model."""

from __future__ import annotations

import enum
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
from onnxheadprune.runtime.feeds.inputs import Expression, Input, Role, graph_inputs
from onnxheadprune.runtime.feeds.tables import least_lengths

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
PIECE = 2**21
"""Elements that are looked at together."""
MAX_ELEMENTS = 2**28
"""Of one input; more is not made up, whatever the model declares: the machine may not have as much memory."""
UNKNOWN_ROWS = 2
"""Integers whose table is not found stay below this; 0 and 1 are valid almost everywhere."""

GENERATED = 3
"""Tokens that a generation adds to its prompt."""
HOLE_FROM = 6
"""Shorter masks get no hole."""


@dataclass(frozen=True)
class Roles:
    """The meanings of the symbols of a model's inputs; every symbol is in exactly one tuple."""

    batch: tuple[str, ...]  # number of samples
    past: tuple[str, ...]  # length of a cache
    total: tuple[str, ...]  # cache and sequence together (the width of a mask)
    length: tuple[str, ...]  # length of a sequence of tokens
    extent: tuple[str, ...]  # sides of an image, samples of audio: what convolutions may want large


@dataclass(frozen=True)
class Sizes:
    """Numbers to fill in, per role."""

    batch: int  # for every batch symbol
    past: int  # for lengths of a cache
    length: int  # for sequences; with `distinct`, the second symbol gets two more, and so on
    extent: int  # for images and audio, in the same way
    distinct: bool  # whether different symbols get different numbers


def numbers_for(found: Roles, sizes: Sizes, pinned: Mapping[str, int]) -> dict[str, int]:
    """One number per symbol; `pinned` ones are dictated by weights (channels of an image)."""
    numbers = dict.fromkeys(found.batch, sizes.batch) | dict.fromkeys(found.past, sizes.past)
    numbers |= dict.fromkeys(found.total, sizes.past + sizes.length)
    for names, size in ((found.length, sizes.length), (found.extent, sizes.extent)):
        for position, name in enumerate(name for name in names if name not in pinned):
            numbers[name] = size + 2 * position * sizes.distinct
    return numbers | dict(pinned)


def roles_of(places: Iterable[tuple[Input, int, Expression]]) -> Roles:
    """Sort symbols by name and by where they stand: the axes of inputs that depend on them."""
    seen: dict[str, list[tuple[Input, int]]] = {}
    for item, axis, dim in places:
        for name in dim.symbols:
            seen.setdefault(name, []).append((item, axis))
    cached = any(item.is_cache for where in seen.values() for item, _ in where)
    found: dict[str, list[str]] = {role: [] for role in ("batch", "past", "total", "length", "extent")}
    for name, where in seen.items():
        found[_role(name.lower(), where, cached)].append(name)
    return Roles(**{role: tuple(names) for role, names in found.items()})


def _role(name: str, where: Sequence[tuple[Input, int]], cached: bool) -> str:
    foreign = "encoder" in name and "decoder" not in name
    # A cache of all layers has the batch after layers, keys and values: what other inputs say counts.
    telling = [place for place in where if not place[0].is_cache] or where
    if "batch" in name or all(axis == 0 and len(item.dims) > 1 for item, axis in telling):
        return "batch"
    if not foreign and ("past" in name or any(item.is_cache for item, _ in where)):
        return "past"
    items = [item for item, _ in where]
    # A mask spans the cache and the sequence; only exporters that name every axis apart say so like this.
    masks = all(item.role is Role.MASK and "encoder" not in item.name.lower() for item in items)
    if cached and ("total" in name or masks):
        return "total"
    signals = [item.role in (Role.FLOATS, Role.PIXELS) for item in items]
    masked = all(signal or item.role is Role.MASK for signal, item in zip(signals, items, strict=True))
    return "extent" if masked and any(signals) else "length"


class Padding(enum.Enum):
    """The side on which masks have zeros."""

    NONE = "none"
    RIGHT = "right"
    LEFT = "left, and a hole"


class Reading(enum.Enum):
    """Another way to read an input of integers or booleans than by its type and name."""

    ONES = "ones"
    ZEROS = "zeros"
    ROWS = "row numbers"
    LENGTH = "the length"
    BEYOND = "more than the length"


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


def fill(
    item: Input,
    shape: tuple[int, ...],
    case: Case,
    generator: np.random.Generator,
    *,
    reading: Reading | None = None,
    plain: bool = False,
) -> Array:
    """An array of `shape` and of the input's type.

    Args:
        reading: what it holds in place of what its type and name say.
        plain: the second try for models that choke on the first: floats between 0 and 1, and boolean masks the other
            way round (True means "ignore" in some exports).
    """
    total = case.past + case.length
    values: Array
    match reading or item.role:
        case Role.FLOATS:
            values = generator.uniform(size=shape) if plain else generator.standard_normal(shape)
        case Role.MASK:
            values = _mask(shape, case.padding)
            values = ~values if plain and item.dtype == np.bool_ else values
        case Role.POSITIONS | Reading.ROWS:
            along = np.arange(case.past, case.past + shape[-1]) if shape else np.array(case.past)
            values = np.broadcast_to(along if item.rows is None else along % item.rows, shape)
        case Role.LENGTHS:
            values = np.full(shape, length_of(item, case.past, total))
        case Role.FLAG:
            values = np.full(shape, case.flag)
        case Role.BOOLS:
            values = generator.integers(0, 2, shape)
        case Role.PIXELS:
            limits = np.iinfo(item.dtype)
            values = generator.integers(limits.min, limits.max, shape, endpoint=True)
        case Role.IDS:
            values = generator.integers(0, item.rows or UNKNOWN_ROWS, shape)
        case other:
            numbers = {Reading.ONES: 1, Reading.LENGTH: total, Reading.BEYOND: total + GENERATED}
            values = np.full(shape, numbers.get(other, 0))
    return values.astype(item.dtype)


def length_of(item: Input, past: int, total: int) -> int:
    """The number that an input holds that gives a length."""
    lowered = item.name.lower()
    if "past" in lowered:
        return past
    # GroupQueryAttention takes the index of the last key.
    return total - 1 if "seqlens_k" in lowered else total


def _mask(shape: tuple[int, ...], padding: Padding) -> Array:
    """Ones; when padded, row `i` loses `1 + i` places at one end, but never more than half.

    Padding on the left comes with a hole: the place after the middle is lost too.
    """
    mask = np.ones(shape, dtype=np.bool_)
    if padding is Padding.NONE or len(shape) < 2 or shape[-1] < 2:
        return mask
    length = shape[-1]
    for row in range(shape[0]):
        lost = min(1 + row, length // 2)
        if padding is Padding.RIGHT:
            mask[row, ..., length - lost :] = False
        else:
            mask[row, ..., :lost] = False
            if length >= HOLE_FROM:
                mask[row, ..., length // 2 + 1] = False
    return mask


class FeedMaker:
    """Makes random feeds for one model.

    Attributes:
        inputs: what a feed must hold.
        readings: inputs that are filled otherwise than by type and name, since the model did not run on that.
    """

    def __init__(self, view: GraphView, seed: int = 0) -> None:
        """Read the inputs of an annotated view."""
        self.inputs = graph_inputs(view)
        self.seed = seed
        self.readings: Mapping[str, Reading] = {}
        expressions = [
            (item, axis, dim)
            for item in self.inputs
            for axis, dim in enumerate(item.dims)
            if isinstance(dim, Expression)
        ]
        self._roles = roles_of(expressions)
        least = least_lengths(view)
        self._least = max(
            (least.get(name, 0) for name in (*self._roles.length, *self._roles.extent)), default=0
        )
        """The sequence that constant indices need; unrolled loops take no other one."""
        self._capacity = max((item.capacity for item in self.inputs), default=0)
        self._has_cache = bool(self._roles.past) or any(item.is_cache for item in self.inputs)
        ranks = [len(item.dims) for item, _, dim in expressions if set(dim.symbols) & set(self._roles.extent)]
        self._largest = min((LARGEST.get(rank, 64) for rank in ranks), default=0)
        self._pinned = {
            dim.text: item.widths[axis]
            for item, axis, dim in expressions
            if axis in item.widths and dim.is_symbol
        }

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
            used = replace(case, past=sizes.past, length=sizes.length)
            yield self._feed(shapes, used), self._feed(shapes, used, plain=True)

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
        return self._feed(shapes, Case(sizes.batch, sizes.length, sizes.past, flag=flag))

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

    def _feed(self, shapes: Mapping[str, tuple[int, ...]], case: Case, *, plain: bool = False) -> Feed:
        generator = np.random.default_rng((self.seed, case.past, case.length, case.padding is Padding.RIGHT))
        feed = {}
        for item in self.inputs:
            shape, reading = shapes[item.name], self.readings.get(item.name)
            own = case
            if not self._has_cache and (reading is not None or item.role is Role.LENGTHS):
                length = _counted_length(item, self.inputs, shapes) or case.length
                own = replace(case, past=0, length=length)
            feed[item.name] = fill(item, shape, own, generator, reading=reading, plain=plain)
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

    @property
    def note(self) -> str:
        """A note on inputs that are filled otherwise than by type and name; nothing where none is."""
        listed = ", ".join(f"{name} holds {reading.value}" for name, reading in self.readings.items())
        return f"random inputs on which the model runs: {listed}" if listed else ""


def _counted_length(
    item: Input, inputs: Sequence[Input], shapes: Mapping[str, tuple[int, ...]]
) -> int | None:
    """The size of the sequence that an input of lengths measures, in a model without a cache; None where none is.

    That is the input of the same name ("mel" of "mel_lengths"), else the first one with an open axis after samples.
    """
    stem = _LENGTHS.sub("", item.name.lower())
    for other in sorted(inputs, key=lambda other: other.name.lower() != stem):
        for axis, dim in enumerate(other.dims):
            if other is not item and axis and not isinstance(dim, int) and axis not in other.widths:
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
