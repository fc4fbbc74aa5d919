"""Broken models: seeds, mutations of bytes and of protobuf fields, and what must never happen with them.

Shared by `test_fuzz.py` (a few hundred inputs and a fixed corpus) and `benchmarks/robustness.py` (thousands).
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import ModelProto

from onnxheadprune import (
    HeadPruneError,
    InferenceError,
    ValidationFailedError,
    inspect,
    prune,
    validate,
)
from tests.graphs import toys

NUMBERS = (0, 1, 2, 3, 4, 7, 16, 255, 4096, 65536, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1)
TEXTS = (
    "",
    "y",
    "x",
    "main",
    "../w.bin",
    "\x00",
    "é" * 40,
    "ai.onnx",
    "com.microsoft",
    "0",
    "-1",
    "99999999999",
)


def seeds() -> dict[str, bytes]:
    """Small valid models of several kinds."""
    models = {
        "plain": toys.attention(),
        "cache": toys.attention(cache=True),
        "ids": toys.attention(ids=True),
        "large": toys.attention(extra_weight=20_000),
    }
    beside, _ = weights_beside(toys.attention(extra_weight=20_000))
    return {name: model.SerializeToString() for name, model in models.items()} | {"beside": beside}


def weights_beside(model: ModelProto) -> tuple[bytes, bytes]:
    """A model whose weights are in a file `w.bin`, and that file."""
    data = bytearray()
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            for key, value in (
                ("location", "w.bin"),
                ("offset", len(data)),
                ("length", len(tensor.raw_data)),
            ):
                tensor.external_data.add(key=key, value=str(value))
            data += tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
    return model.SerializeToString(), bytes(data)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Somewhat damaged bytes of a model."""
    if rng.random() < 0.6:
        model = ModelProto.FromString(data)
        for _ in range(rng.randint(1, 4)):
            damage_fields(model, rng)
        return model.SerializeToString(deterministic=True)
    for _ in range(rng.randint(1, 6)):
        data = damage_bytes(data, rng)
    return data


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """One byte or one stretch is changed, inserted, taken out, repeated or cut off."""
    if not data:
        return data
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((1, 1, 2, 8, 64, 1024)))
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: data[:start] + bytes([rng.randrange(256)]) + data[start + 1 :],
        lambda: data[:start] + bytes([data[start] ^ 1 << rng.randrange(8)]) + data[start + 1 :],
        lambda: data[:start] + rng.randbytes(stop - start) + data[start:],
        lambda: data[:start] + data[stop:],
        lambda: data[:stop] + data[start:],
        lambda: data[:start],
        lambda: data[:start] + b"\xff" * (stop - start) + data[stop:],
    )
    return rng.choice(kinds)()


def damage_fields(message: Any, rng: random.Random) -> None:
    """Walks to some field and sets, removes, repeats or reorders what is there."""
    while True:
        fields = [item for item in message.DESCRIPTOR.fields if _filled(message, item)]
        if not fields:
            return
        field = rng.choice(fields)
        value = getattr(message, field.name)
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            _damage_scalar(message, field, value, rng)
            return
        if not _repeated(message, field):
            if rng.random() < 0.05:
                message.ClearField(field.name)
                return
            message = value
            continue
        index = rng.randrange(len(value))
        action = rng.random()
        if action < 0.08:
            del value[index]
            return
        if action < 0.16:
            value.add().CopyFrom(value[index])
            return
        if action < 0.22:
            held = [type(value[0])() for _ in value]
            for copy, item in zip(held, value, strict=True):
                copy.CopyFrom(item)
            rng.shuffle(held)
            del value[:]
            value.extend(held)
            return
        message = value[index]


def _repeated(message: Any, field: Any) -> bool:
    return not isinstance(getattr(message, field.name), (int, float, str, bytes)) and hasattr(
        getattr(message, field.name), "extend"
    )


def _filled(message: Any, field: Any) -> bool:
    if _repeated(message, field):
        return len(getattr(message, field.name)) > 0
    return bool(message.HasField(field.name)) if field.has_presence else True


def _damage_scalar(message: Any, field: Any, value: Any, rng: random.Random) -> None:
    if _repeated(message, field):
        index = rng.randrange(len(value))
        if rng.random() < 0.3:
            del value[index]
        elif rng.random() < 0.3:
            value.append(value[index])
        else:
            value[index] = _other(field, value[index], rng)
        return
    setattr(message, field.name, _other(field, value, rng))


def _other(field: Any, value: Any, rng: random.Random) -> Any:
    if isinstance(value, bytes):
        return damage_bytes(value, rng)
    if isinstance(value, str):
        return rng.choice((*TEXTS, value[: len(value) // 2], value + "_"))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice([item.number for item in field.enum_type.values])
    number = rng.choice((*NUMBERS, -1, -2, -(2**31), value + 1, value - 1))
    if field.type == FieldDescriptor.TYPE_INT32:
        return max(-(2**31), min(2**31 - 1, number))
    if field.type == FieldDescriptor.TYPE_UINT64:
        return min(2**64 - 1, max(0, number))
    return max(-(2**63), min(2**63 - 1, number))


def tried(path: Path, output: Path, *, run: bool) -> str:
    """What the tool makes of a file: "refused", "pruned", "passed", "inconclusive"; anything else raises.

    Args:
        path: the input.
        output: where to write.
        run: validate what was written, with ONNX Runtime.

    Raises:
        AssertionError: if a wrong model was accepted, or something was left behind.
    """
    weights = path.with_name("w.bin")
    if not weights.exists():
        weights.write_bytes(weights_beside(toys.attention(extra_weight=20_000))[1])
    try:
        inspect(path)
        prune(path, output, heads="*:0", validate=False)
    except HeadPruneError:
        assert not list(output.parent.glob(f"*{output.name}*")), "a refusal left a file"
        return "refused"
    with warnings.catch_warnings():
        # Keys of external data that onnx does not know are passed on as they are.
        warnings.simplefilter("ignore")
        onnx.load(output)
    if not run:
        return "pruned"
    try:
        verdict = validate(path, output, provider="cpu")
    except (InferenceError, HeadPruneError):
        return "does not run"
    if verdict.verdict != "failed":
        return verdict.verdict
    # What contradicts itself (two declared shapes of one value) cannot be shown to be exact: it must not be written.
    for left in output.parent.glob(f"*{output.name}*"):
        left.unlink()
    try:
        prune(path, output, heads="*:0", provider="cpu")
    except ValidationFailedError:
        assert not list(output.parent.glob(f"*{output.name}*")), "a failed validation left a file"
        return f"caught: {verdict.reason}"
    raise AssertionError(f"a wrong model was accepted: {verdict.reason}")
