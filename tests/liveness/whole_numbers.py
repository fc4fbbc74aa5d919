"""Whole numbers of operators by their schemas: axes, sizes, lists of indices, which a rule renumbers or refuses."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

from onnx import defs
from onnxruntime.capi import onnxruntime_pybind11_state as runtime

from tests.liveness.one_node import Case
from tests.liveness.strategies import Key

OLDEST = 7
"""The first opset that is read."""
INTEGERS = {"tensor(int64)", "tensor(int32)"}
MANNER = frozenset(
    "to saturate stash_type output_dtype precision seed softmax_precision fmod detect_negative detect_positive p"
    " largest sorted select_last_index antialias exclude_outside accuracy_level weight_prepacked weights_prepacked"
    " smooth_softmax kv_cache_bit_width normalize_routing_weights swiglu_fusion use_sparse_mixer spatial chunk_size"
    " causal output_qk qk_output is_packed_batching past_present_share_buffer sliding_window_cache".split()
)
"""Attributes that say how numbers are computed or stored; they name no position, size or count."""
TOKENS = "counts or places tokens"
BEAMS = "counts or places beams"
NO_KERNEL = "no kernel on processors reads it"
UNDRAWN = {
    ("Attention", "left_window_size"): TOKENS,
    ("Attention", "right_window_size"): TOKENS,
    ("Attention", "input 6"): TOKENS,
    ("Attention", "do_rotary"): NO_KERNEL,
    ("Attention", "rotary_embedding_dim"): NO_KERNEL,
    ("QAttention", "do_rotary"): NO_KERNEL,
    ("DecoderMaskedMultiHeadAttention", "input 3"): TOKENS,
    ("DecoderMaskedMultiHeadAttention", "input 7"): TOKENS,
    ("DecoderMaskedMultiHeadAttention", "input 8"): BEAMS,
    ("DecoderMaskedMultiHeadAttention", "input 9"): BEAMS,
    ("MultiHeadAttention", "input 8"): TOKENS,
    ("MultiHeadAttention", "input 9"): BEAMS,
    ("GroupQueryAttention", "input 9"): TOKENS,
    ("CausalConvWithState", "ndim"): NO_KERNEL,
    ("CausalConvWithState", "state_window"): NO_KERNEL,
    ("LinearAttention", "state_window"): NO_KERNEL,
    ("MatMulNBits", "input 4"): "refused, see test_packed_zero_points.py",
    **{
        ("QMoE", f"{part}expert_weight_bits"): "see test_mixtures.py" for part in ("", "fc1_", "fc2_", "fc3_")
    },
    ("QMoE", "block_size"): "see test_mixtures.py",
}
"""Numbers that no strategy draws, by operator and name, with the reason."""


@cache
def schemas() -> dict[Key, list[Any]]:
    """All versions of all operators that a model of a readable opset may mean."""
    found: dict[Key, list[Any]] = defaultdict(list)
    for schema in defs.get_all_schemas_with_history():
        if not schema.deprecated:
            found[schema.domain, schema.name].append(schema)
    for key, versions in found.items():
        first = max((item.since_version for item in versions if item.since_version <= OLDEST), default=0)
        found[key] = [item for item in versions if item.since_version >= first]
    for schema in runtime.get_all_operator_schema():
        if schema.domain == "com.microsoft":
            found[schema.domain, schema.name].append(schema)
    return found


def numbers_of(key: Key) -> set[str]:
    """Names of the whole numbers of an operator: attributes, and inputs that can be nothing else."""
    names = set()
    for schema in schemas()[key]:
        names |= {name for name, item in schema.attributes.items() if item.type.name in ("INT", "INTS")}
        types = {item.type_param_str: {*item.allowed_type_strs} for item in schema.type_constraints}
        for index, item in enumerate(schema.inputs):
            written = getattr(item, "type_str", None) or item.typeStr
            if types.get(written, {written}) <= INTEGERS:
                names.add(f"input {index}")
    return names - MANNER


def excused(op_type: str) -> set[str]:
    """Numbers of an operator that no strategy draws."""
    return {name for known, name in UNDRAWN if known == op_type}


class Drawn:
    """What a strategy draws for each number of an operator; leaving one out is a choice, too.

    A property narrows what it is given, so a number that no strategy draws is a number that nobody checks.
    """

    def __init__(self, key: Key) -> None:
        self._seen: dict[str, set[str]] = {name: set() for name in numbers_of(key) - excused(key[1])}

    def note(self, case: Case) -> None:
        """Add what is drawn in a case."""
        given = {f"input {index}": array for index, array in enumerate(case.inputs) if array is not None}
        for name, seen in self._seen.items():
            seen.add(str(case.attributes.get(name, given.get(name))))

    @property
    def fixed(self) -> set[str]:
        """Numbers that were the same in all cases."""
        return {name for name, seen in self._seen.items() if len(seen) < 2}
