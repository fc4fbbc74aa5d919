"""Index notation: a letter for each axis of the inputs and the output of an operator.

The shape of the output and the propagation rule follow from it: a live set on an axis of the output is one on the axes
of inputs with the same letter. Site detection asks about letters, too, never about names of operators: MatMul, Gemm,
Einsum, Conv and their quantized and fused forms all multiply two operands and sum over shared letters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnxheadprune.liveness.answers import Answer
from onnxheadprune.liveness.live import Live, together
from onnxheadprune.liveness.refusals import Reason, Refusal, coupled, inexpressible, refuse, unknown_shape
from onnxheadprune.model.graph.dims import Dim, Shape, Symbolic, broadcast_dim
from onnxheadprune.model.graph.operator import CONVOLVES, Shapes
from onnxheadprune.model.graph.view import Node, Value

Letters: TypeAlias = tuple[str | None, ...]
ONE = "1"
"""The letter of an axis of size 1 that belongs to no axis of another value."""


@dataclass(frozen=True)
class Notation:
    """A node in index notation.

    Attributes:
        terms: inputs, each with a letter per axis (None where a size of 1 is broadcast); of a product its operands.
        out_axes: a letter per axis of the first output.
        others: other inputs of a product, such as a bias.
        mixed: letters whose positions the operator mixes, so that each needs all others.
        whole: letters whose positions have to stay where they are.
        alike: whether further outputs have the letters of the first; if not, nothing may read them.
    """

    terms: tuple[tuple[int, Letters], ...]
    out_axes: tuple[str, ...]
    others: tuple[tuple[int, Letters], ...] = ()
    mixed: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()
    alike: bool = False

    @property
    def indices(self) -> tuple[int, ...]:
        """Input indices of the terms."""
        return tuple(index for index, _ in self.terms)

    def axes_of(self, index: int) -> Letters:
        """The letters of the term at an input index."""
        return dict(self.terms)[index]

    def owners(self, letter: str) -> tuple[int, ...]:
        """Input indices of the terms that have a letter."""
        return tuple(index for index, axes in self.terms if letter in axes)

    @property
    def batch(self) -> frozenset[str]:
        """Output letters that several terms share."""
        return frozenset(letter for letter in self.out_axes if len(self.owners(letter)) > 1)

    @property
    def contracted(self) -> frozenset[str]:
        """Letters that are summed over and that several terms share."""
        letters = {letter for _, axes in self.terms for letter in axes if letter is not None}
        return frozenset(letter for letter in letters - set(self.out_axes) if len(self.owners(letter)) > 1)

    def axes_with(self, letters: Collection[str]) -> list[int]:
        """The axes of the output with some letters."""
        return [axis for axis, letter in enumerate(self.out_axes) if letter in letters]


Axes: TypeAlias = Callable[[Node], Notation | None]
"""Returns a node in index notation, None where shapes are not known."""


def contraction_of(node: Node) -> Notation | None:
    """The product that a node computes, None if it computes none or its shapes are unknown."""
    read = node.operator.axes
    found: Notation | None = None if read is None or node.operator.operands is None else read(node)
    return found


def operand_indices(node: Node) -> tuple[int, ...]:
    """Input indices of the operands of a product, even if its shapes are unknown; empty for other operators."""
    listed = node.operator.operands
    return tuple(range(len(node.inputs))) if listed == () else listed or ()


def kernel_of(node: Node) -> int | None:
    """The input index of the kernel of a convolution, None for other operators."""
    return operand_indices(node)[1] if node in CONVOLVES else None


def operands(node: Node, notation: Notation) -> tuple[Value, ...]:
    """The terms as values."""
    return tuple(value for index in notation.indices if (value := node.inputs[index]) is not None)


def shape_in_letters(axes: Axes, node: Node) -> Shapes:
    """The shape of the output, and of others that are alike."""
    found = axes(node)
    if found is None or any(node.shape(index) is None for index in found.indices):
        return [None]
    sizes: dict[str, Dim] = {}
    for index, letters in found.terms:
        for letter, dim in zip(letters, node.shape(index) or (), strict=False):
            if letter is not None:
                sizes[letter] = broadcast_dim(sizes.get(letter, 1), dim)
    shape: Shape = tuple(sizes.get(letter or ONE, 1) for letter in found.out_axes)
    return [shape] * (len(node.outputs) if found.alike else 1)


def summed_sizes(node: Node) -> Shapes:
    """The shapes of a product's operands: axes that are summed over together have one size."""
    found = contraction_of(node)
    if found is None:
        return []
    terms = {
        index: tuple(zip(letters, node.shape(index) or (), strict=False)) for index, letters in found.terms
    }
    known = {
        letter: dim
        for pairs in terms.values()
        for letter, dim in pairs
        if letter in found.contracted and isinstance(dim, int)
    }
    return [
        tuple(
            known.get(letter or ONE, dim) if isinstance(dim, Symbolic) else dim
            for letter, dim in terms[index]
        )
        if index in terms and node.shape(index) is not None
        else None
        for index in range(len(node.inputs))
    ]


def rule_in_letters(axes: Axes, node: Node, lives: Sequence[Live]) -> Answer | Refusal:
    """The live sets of inputs: each letter of the output is live on every input that has it.

    A summed letter is not in the output, so it stays whole. A demand on a mixed letter beside others is taken for the
    others alone: a later Slice asks for a part of the axis, which is unrelated to heads.
    """
    found = axes(node)
    if found is None:
        return unknown_shape(node)
    if not found.alike and any(value is not None and value.is_read for value in node.outputs[1:]):
        return refuse(node, Reason.INEXPRESSIBLE, f"other outputs of {node.op_type} are used elsewhere")
    asked = beside(together(lives) if found.alike else lives[0], found.axes_with(found.mixed))
    if asked is None:
        return coupled(node)
    if not {*found.axes_with(found.whole)}.isdisjoint(asked.axes):
        return inexpressible(node)
    inputs: dict[int, Live] = {}
    for index, axes_of in (*found.terms, *found.others):
        shape = node.shape(index)
        if node.input(index) is None:
            continue
        if shape is None:
            return unknown_shape(node)
        # An axis of size 1 is repeated: every position of the output needs it.
        own = [None if dim == 1 else letter for letter, dim in zip(axes_of, shape, strict=True)]
        back = _along(asked, found.out_axes, own)
        if back is None:
            return inexpressible(node)
        inputs[index] = back
    return Answer(inputs, kept=(asked, *([asked] * (len(lives) - 1) if found.alike else lives[1:])))


def _along(live: Live, out_axes: Sequence[str], letters: Sequence[str | None]) -> Live | None:
    """The live set on an input; None for no outer product of which the input does not have the first axes, in order.

    Shared keys `[B, K, 1, T, D]` are one per group, whichever of its queries are left; which positions of a later axis
    are left differs between those of the first ones.
    """
    carried = {axis: letters.index(out_axes[axis]) for axis in live.axes if out_axes[axis] in letters}
    if live.is_mask and not live.is_product:
        in_order = list(carried) == sorted(carried, key=carried.__getitem__)
        if tuple(carried) != live.axes[: len(carried)] or not in_order:
            return None
    projected = live.only(carried)
    return projected.renumbered({axis: carried[axis] for axis in projected.axes})


def beside(live: Live, mixed: Collection[int]) -> Live | None:
    """Return the live set without the axes that an operator needs whole; None if it has no others (merged heads).

    A later Slice of the same axis (attention sinks, the largest of TopK) asks for a part of it, which is
    unrelated to heads. Labels are not masks: labels of one position do not apply to others.
    """
    if not set(mixed) & set(live.axes):
        return live
    rest = live.only([axis for axis in live.axes if axis not in mixed])
    return None if rest.is_full or live.numbers_positions else rest


def numbered(count: int) -> tuple[str, ...]:
    """A letter per axis.

    >>> numbered(3)
    ('a0', 'a1', 'a2')
    """
    return tuple(f"a{axis}" for axis in range(count))


def elementwise(node: Node) -> Notation | None:
    """Every input is broadcast to the output."""
    return broadcast(node, [index for index, value in enumerate(node.inputs) if value is not None])


def broadcast(node: Node, indices: Sequence[int], others: Sequence[int] = ()) -> Notation | None:
    """Some inputs are broadcast to the output; others to them, which they do not make larger."""
    shapes = {index: node.shape(index) for index in indices}
    if not indices or any(shape is None for shape in shapes.values()):
        return None
    rank = max(len(shape or ()) for shape in shapes.values())
    letters = numbered(rank)
    more = {index: node.shape(index) for index in others if node.input(index) is not None}
    if any(shape is not None and len(shape) > rank for shape in more.values()):
        return None
    return Notation(
        tuple((index, letters[rank - len(shape or ()) :]) for index, shape in shapes.items()),
        letters,
        tuple((index, letters[rank - len(shape or ()) :]) for index, shape in more.items()),
    )


def spelled(text: str, *, alike: bool = False) -> Axes:
    """Return the reader of a notation like that of Einsum; letters in brackets are mixed.

    Inputs that are left out keep everything, as those behind the last one do.

    >>> normalization, gate = spelled("...k,k->...[k]"), spelled("...,,...->...")
    """
    sources, _, target = text.replace(" ", "").partition("->")
    terms = {index: term for index, term in enumerate(sources.split(",")) if term}
    mixed = target.partition("[")[2].partition("]")[0]
    target = target.replace("[", "").replace("]", "")

    def read(node: Node) -> Notation | None:
        given = [index for index in terms if node.input(index) is not None]
        shapes = [node.shape(index) for index in given]
        found = with_letters([*(terms[index] for index in given), mixed, target], shapes)
        if found is None:
            return None
        *inputs, mixing, out = found
        pairs = zip(given, map(tuple, inputs), strict=True)
        return Notation(tuple(pairs), tuple(out), mixed=frozenset(mixing), alike=alike)

    return read


def with_letters(terms: Sequence[str], shapes: Sequence[Shape | None]) -> list[str] | None:
    """Spell the ellipses of terms with capital letters.

    Args:
        terms: of inputs; then others, such as the output.
        shapes: of the inputs, which say what an ellipsis stands for; None is returned where one does not fit.

    >>> with_letters(["...ij", "jk", "...ik"], [(2, 3, 4), (4, 5)])
    ['Zij', 'jk', 'Zik']
    """
    known = [shape for shape in shapes if shape is not None]
    widths = [len(shape) - len(term.replace("...", "")) for term, shape in zip(terms, known, strict=False)]
    fit = all(width >= 0 if "..." in term else not width for term, width in zip(terms, widths, strict=False))
    if len(known) < len(shapes) or not fit:
        return None
    most = max(widths, default=0)
    spare = [letter for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if letter not in "".join(terms)]
    dots = "".join(spare[:most][::-1])
    widths += [most] * (len(terms) - len(widths))
    return [term.replace("...", dots[most - width :]) for term, width in zip(terms, widths, strict=True)]


def same_axes(
    node: Node,
    mixed: Iterable[int] | slice = (),
    whole: Iterable[int] = (),
    *,
    alike: bool = False,
) -> Notation | None:
    """The output has the axes of the first input.

    Args:
        mixed, whole: the axes that the operator mixes, or that have to stay as they are.
        alike: whether all outputs have them.
    """
    shape = node.shape(0)
    if shape is None:
        return None
    letters = numbered(len(shape))
    mixing = letters[mixed] if isinstance(mixed, slice) else (letters[axis] for axis in mixed)
    kept = frozenset(letters[axis] for axis in whole)
    return Notation(((0, letters),), letters, mixed=frozenset(mixing), whole=kept, alike=alike)
