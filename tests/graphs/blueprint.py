"""What can differ between two exports of one attention block, as a value that Hypothesis can draw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from hypothesis import strategies as st

from tests.liveness.masks import Draw

T = TypeVar("T")


@dataclass(frozen=True)
class Blueprint:
    """One attention block.

    Attributes:
        B, S, K, G, D: batch, sequence, KV heads, query heads per KV head, head size (Dv for values).
        symbolic: whether batch and sequence are declared by name only.
        layout: "bhsd" (transposed), "bshd" (einsum on untransposed heads), "merged" ([B*H, S, D]).
        packing: "separate", "packed" (all of Q, all of K, all of V) or "interleaved" (Q, K, V per head).
        unpack: "split", "slice" or "gather": how packed projections come apart.
        gemm: projections are Gemm on two axes rather than MatMul on three.
        target: spelling of reshape targets: "constant", "zero", "minus", "shape".
        repeat: how KV heads are repeated: "expand", "gather", "tile".
        mask: "none", "batch" ([B, 1, S, T]), "head" (an initializer [1, H, S, T]).
        scale: "none", "query" or "context": a learned factor per head.
        rotary: "none", "written" in basic operators, or an operator of [B, H, S, D] "heads" or of "flat" [B, S, H*D].
        normalize: "softmax" or "sigmoid" over the scores.
        past: length of the cache, 0 for none.
    """

    B: int
    S: int
    K: int
    G: int
    D: int
    Dv: int
    symbolic: bool
    layout: str
    packing: str
    unpack: str
    gemm: bool
    bias: bool
    target: str
    repeat: str
    mask: str
    scale: str
    rotary: str
    query_norm: bool
    normalize: str
    past: int
    layers: int
    opset: int

    @property
    def H(self) -> int:
        """Query heads."""
        return self.K * self.G

    @property
    def T(self) -> int:
        """Keys per query."""
        return self.S + self.past

    @property
    def width(self) -> int:
        """Model width: no multiple of a head size, so that it cannot be taken for one."""
        return 7


PLAIN = Blueprint(
    B=2, S=3, K=4, G=1, D=2, Dv=2, symbolic=True, layout="bhsd", packing="separate", unpack="split",
    gemm=False, bias=True, target="shape", repeat="expand", mask="head", scale="none", rotary="none",
    query_norm=False, normalize="softmax", past=0, layers=2, opset=17,
)  # fmt: skip
STATIC = replace(PLAIN, symbolic=False, opset=21)


@st.composite
def blueprints(draw: Draw) -> Blueprint:
    """Any block that an exporter could have written."""
    group = draw(st.sampled_from((1, 1, 2, 3)))
    kv = draw(st.integers(2 if group == 1 else 1, 4 if group == 1 else 2))
    heads = kv * group

    def pick(*options: T) -> T:
        return draw(st.sampled_from(options))  # type: ignore[no-any-return]

    symbolic = draw(st.booleans())
    packing = pick("separate", "packed", "interleaved") if group == 1 else pick("separate", "packed")
    unpack = pick("split", "slice", "gather") if group == 1 else pick("split", "slice")
    size = pick(2, 4)
    layout = pick("bhsd", "bshd", "merged")
    past = pick(0, 0, 3)
    return Blueprint(
        B=pick(1, 2, heads),
        S=pick(1, 3, heads),
        K=kv,
        G=group,
        D=size,
        Dv=pick(size, size + 1) if packing == "separate" else size,
        symbolic=symbolic,
        layout="bhsd" if layout == "bshd" and (past or group > 1) else layout,
        packing=packing,
        unpack=unpack,
        gemm=draw(st.booleans()),
        bias=draw(st.booleans()),
        target=pick("zero", "minus", "shape") if symbolic else pick("constant", "zero", "minus", "shape"),
        repeat=pick("expand", "gather", "tile"),
        mask=pick("none", "batch", "head"),
        scale=pick("none", "query", "context"),
        rotary=pick("none", "none", "written", "written", "heads", "flat"),
        query_norm=draw(st.booleans()),
        normalize=pick("softmax", "sigmoid"),
        past=past,
        layers=pick(1, 1, 1, 2),
        opset=draw(st.integers(13, 21)),
    )
