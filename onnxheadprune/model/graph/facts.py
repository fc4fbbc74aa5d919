"""What kind of operator a node is: `node in VIEWS`. `onnxheadprune.operators` says which operators are of a kind.

Kinds that differ by one operator differ on purpose: a view moves no arithmetic, a carrier may also change the type.
Whoever needs another mixture joins kinds with `|` where it is needed, and says why there.
"""

from __future__ import annotations

from typing import TypeAlias

from onnxheadprune.model.graph.view import Node

Key: TypeAlias = tuple[str, str]


class Kind:
    """A set of operators.

    Attributes:
        what: what the operators do, for errors.
    """

    def __init__(self, what: str, *parts: Kind) -> None:
        self.what = what
        self._parts = parts
        self._keys: set[Key] = set()
        self._all: frozenset[Key] | None = None

    def add(self, *op_types: str, domain: str = "") -> None:
        """Says that operators of one domain are of this kind.

        Raises:
            ValueError: if one is already.
            TypeError: if the kind is made of others, or was asked before.
        """
        if self._parts or self._all is not None:
            raise TypeError(f"operators that {self.what} can no longer be added to")
        for op_type in op_types:
            if (domain, op_type) in self._keys:
                raise ValueError(f"{domain or 'ai.onnx'}.{op_type} is said twice to {self.what}")
            self._keys.add((domain, op_type))

    def __contains__(self, node: Node) -> bool:
        keys = self._all
        if keys is None:
            keys = self._all = self._joined()
        return (node.domain, node.op_type) in keys

    def __or__(self, other: Kind) -> Kind:
        return Kind(f"{self.what} or {other.what}", self, other)

    def _joined(self) -> frozenset[Key]:
        if not self._parts and not self._keys:
            raise LookupError(f"no operator is known to {self.what}: import onnxheadprune.operators first")
        return frozenset(self._keys).union(*(part._joined() for part in self._parts))


RESHAPES = Kind("read one buffer under other axes that an input lists")
SQUEEZES = Kind("put in axes of size 1, or drop them")
FLATTENS = Kind("read one buffer under other axes that the operator computes")
TRANSPOSES = Kind("change the order of axes")
IDENTITIES = Kind("give what they take")
DROPOUTS = Kind("give what they take, at inference")
CASTS = Kind("change the type")
CASTS_LIKE = Kind("change the type to that of another input")
QUANTIZES = Kind("quantize with a scale that is given")
MEASURES_SCALE = Kind("quantize with a scale of their own")
DEQUANTIZES = Kind("dequantize")
SLICES = Kind("cut a stretch out of axes")
GATHERS = Kind("pick indices of one axis")
GATHERS_ROWS = Kind("pick rows at places")
GATHERS_ELEMENTS = Kind("pick single elements")
TAKES_CHUNKS = Kind("take one chunk of a sequence")
MAKES_CHUNKS = Kind("cut a tensor into a sequence of chunks")
SPLITS = Kind("cut one axis into pieces")
JOINS = Kind("join pieces along an axis")
PADS = Kind("put something around")
EXPANDS = Kind("repeat axes of size 1")
TILES = Kind("repeat axes")
FILLS = Kind("only write")
COUNTS = Kind("count from one number to another")
SHOWS_SHAPE = Kind("tell a shape")
SHOWS_SIZE = Kind("tell how many elements there are")
DIVIDES = Kind("divide two values, element by element")
SUBTRACTS = Kind("subtract two values")
CHOOSES_ELEMENTS = Kind("choose each element by a condition")
ADDS = Kind("add two values")
MULTIPLIES = Kind("multiply two values, element by element")
CHOOSES = Kind("run one of two subgraphs")
SUMS_PRODUCTS = Kind("sum products, and add nothing but a plain bias")
WEIGHS = Kind("make weights that sum to one")

REREADS = RESHAPES | SQUEEZES
"""One buffer under other axes that the node is told."""
OBSERVES = SHOWS_SHAPE | SHOWS_SIZE
"""They ask for a shape, never for contents."""
VIEWS = REREADS | TRANSPOSES | IDENTITIES
"""The same elements under other axes. Without Flatten, which has no target that could be written anew."""
CARRIERS = VIEWS | CASTS | DEQUANTIZES
"""One element of the output for each of the input, which it alone decides."""
QUANTIZERS = QUANTIZES | MEASURES_SCALE
