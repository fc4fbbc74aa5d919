"""Mixtures of experts in one operator, and what they compute, spelled out in float64."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
EXPERTS, HIDDEN, WIDTH, TOKENS = 3, 32, 32, 6
INPUTS = {
    "MoE": ("w1", "b1", "w2", "b2", "w3", "b3"),
    "QMoE": ("w1", "s1", "b1", "w2", "s2", "b2", "w3", "s3", "b3", "z1", "z2", "z3"),
}


@dataclass(frozen=True)
class Mixture:
    """One mixture between a router and a residual stream.

    Attributes:
        op: "MoE" or "QMoE".
        activation: of the experts.
        fused: how gates and values lie in one first map: 1 side by side, 2 one after the other, 0 not in one.
        apart: whether values have a map of their own.
        bias: whether maps have biases.
        bits: of a level.
        block: inputs with one scale; all of a row if 0.
        zeros: whether there are zero points.
        width: neurons of an expert.
        more: further attributes.
    """

    op: str = "MoE"
    activation: str = "relu"
    fused: int = 0
    apart: bool = False
    bias: bool = True
    bits: int = 4
    block: int = 0
    zeros: bool = False
    width: int = WIDTH
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the node."""
        found = {"k": 2, "activation_type": self.activation, "normalize_routing_weights": 1}
        found |= {"swiglu_fusion": self.fused} if self.fused else {}
        if self.op == "QMoE":
            found |= {"expert_weight_bits": self.bits} | ({"block_size": self.block} if self.block else {})
        return found | dict(self.more)

    def tensors(self) -> dict[str, Array]:
        """Stored tensors by name, random but always the same."""
        random = np.random.default_rng(0)
        rows = {"1": (self.width * (2 if self.fused else 1), HIDDEN), "2": (HIDDEN, self.width)}
        rows |= {"3": (self.width, HIDDEN)} if self.apart else {}
        found: dict[str, Array] = {"router": random.standard_normal((HIDDEN, EXPERTS)).astype(np.float32)}
        for name, (outputs, inputs) in rows.items():
            if self.bias:
                found[f"b{name}"] = random.standard_normal((EXPERTS, outputs)).astype(np.float32)
            if self.op == "MoE":
                weights = random.standard_normal((EXPERTS, outputs, inputs)) * 0.3
                found[f"w{name}"] = weights.astype(np.float32)
                continue
            shape = (EXPERTS, outputs, inputs // self.block) if self.block else (EXPERTS, outputs)
            found[f"w{name}"] = random.integers(0, 256, (EXPERTS, outputs, inputs * self.bits // 8), np.uint8)
            found[f"s{name}"] = random.uniform(0.01, 0.05, shape).astype(np.float32) * 2.0 ** (4 - self.bits)
            if self.zeros:
                packed = (*shape[:-1], -(-shape[-1] * self.bits // 8))
                found[f"z{name}"] = random.integers(0, 256, packed, np.uint8)
        return found

    def model(self) -> ModelProto:
        """The model: x + mixture(x, x router)."""
        tensors = self.tensors()
        inputs = [name if name in tensors else "" for name in INPUTS[self.op]]
        while not inputs[-1]:
            inputs.pop()
        nodes = [
            helper.make_node("MatMul", ["x", "router"], ["r"], "router"),
            helper.make_node(
                self.op, ["x", "r", *inputs], ["m"], "experts", domain="com.microsoft", **self.attributes
            ),
            helper.make_node("Add", ["x", "m"], ["y"], "residual"),
        ]
        info = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", HIDDEN]) for name in ("x", "y")
        ]
        stored = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
        graph = helper.make_graph(nodes, "mixture", info[:1], info[1:], stored)
        sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=sets, ir_version=9)

    def expected(
        self, x: Array, tensors: Mapping[str, Array], gone: Collection[int] = (), out: Collection[int] = ()
    ) -> Array:
        """What the model computes if neurons add nothing; `expert * width + i` is neuron i of an expert.

        Args:
            x: tokens.
            tensors: as `tensors` gives them, or what is left of them.
            gone: neurons.
            out: experts that the router never chooses.
        """
        scores = x.astype(np.float64) @ tensors["router"]
        scores[:, list(out)] = -np.inf
        found = x.astype(np.float64)
        for token, row in enumerate(scores):
            best = np.argsort(-row, kind="stable")[:2]
            shares = np.exp(row[best] - row[best].max())
            for expert, share in zip(best, shares / shares.sum(), strict=True):
                hidden = self._hidden(x[token], tensors, int(expert))
                silent = [n - expert * len(hidden) for n in gone if n // len(hidden) == expert]
                hidden[silent] = 0.0
                found[token] += share * self._map("2", hidden, tensors, int(expert))
        return found

    def _hidden(self, token: Array, tensors: Mapping[str, Array], expert: int) -> Array:
        made = self._map("1", token, tensors, expert)
        if self.activation != "swiglu":
            active = _ACTIVATIONS[self.activation](made)
            return active * self._map("3", token, tensors, expert) if self.apart else active
        gate, value = (made[::2], made[1::2]) if self.fused == 1 else np.split(made, 2)
        return _ACTIVATIONS["silu"](gate) * (value + self.more.get("activation_beta", 0.0))

    def _map(self, name: str, source: Array, tensors: Mapping[str, Array], expert: int) -> Array:
        weights: Array = tensors[f"w{name}"][expert]
        if self.op == "QMoE":
            levels = self._levels(weights)
            scale = tensors[f"s{name}"][expert].reshape(len(weights), -1)
            zero: Array = np.full(scale.shape, 2.0 ** (self.bits - 1))
            if self.zeros:
                packed = tensors[f"z{name}"][expert]
                rows = self._levels(packed) if self.block else self._levels(packed[None]).T[: len(weights)]
                zero = rows[:, : scale.shape[1]]
            times = levels.shape[1] // scale.shape[1]
            weights = (levels - np.repeat(zero, times, 1)) * np.repeat(scale, times, 1)
        bias = tensors[f"b{name}"][expert] if self.bias else 0.0
        made: Array = weights.astype(np.float64) @ source + bias
        return made

    def _levels(self, packed: Array) -> Array:
        parts = [(packed >> shift) & (2**self.bits - 1) for shift in range(0, 8, self.bits)]
        found: Array = np.stack(parts, axis=-1).reshape(len(packed), -1).astype(np.float64)
        return found


_ACTIVATIONS: dict[str, Any] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x / (1.0 + np.exp(-x)),
    "identity": lambda x: x,
}


def tokens() -> Array:
    """Some tokens."""
    return np.random.default_rng(1).standard_normal((TOKENS, HIDDEN)).astype(np.float32)


RUNNABLE = {
    "relu": Mixture(),
    "silu": Mixture(activation="silu", bias=False),
    "swiglu": Mixture(activation="swiglu", fused=1, more={"activation_beta": 1.0}),
    "4 bits": Mixture("QMoE"),
    "4 bits, swiglu": Mixture("QMoE", activation="swiglu", fused=1, zeros=True),
    "4 bits, zero points": Mixture("QMoE", zeros=True),
    "4 bits, odd bytes of zero points": Mixture("QMoE", zeros=True, width=18),
    "4 bits, blocks": Mixture("QMoE", block=16),
    "4 bits, blocks, zero points": Mixture("QMoE", block=16, zeros=True, width=96),
    "8 bits": Mixture("QMoE", bits=8, zeros=True),
    "2 bits": Mixture("QMoE", bits=2),
}
UNRUNNABLE = {
    "values apart": Mixture(activation="silu", apart=True),
    "gates, then values": Mixture(activation="swiglu", fused=2),
    "4 bits, gates, then values": Mixture("QMoE", activation="swiglu", fused=2, zeros=True, width=34),
    "4 bits, values apart": Mixture("QMoE", activation="silu", apart=True, block=16, zeros=True, width=64),
    "8 bits in blocks": Mixture("QMoE", bits=8, block=16),
}
"""What ONNX Runtime has no kernel for on a CPU, or one that rounds what lies between the maps."""
