"""Files that are no models, models that cannot be, and places of weights that are not to be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper

from tests.graphs import toys

Change = Callable[[ModelProto], object]
ZIP = b"PK\x03\x04" + b"\0" * 22
FILES: dict[str, bytes] = {
    "empty.onnx": b"",
    "words.onnx": b"this is no model\n",
    "zeros.onnx": b"\x00" * 100,
    "pointer.onnx": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "annex.onnx": b"/annex/objects/SHA256E-s100--abcd.onnx\n",
    "ort.onnx": b"\x10\0\0\0ORTM" + b"\0" * 64,
    "safetensors.onnx": b"\x3f\0\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"}}',
    "torch.onnx": ZIP + b"\x10\0\0\0archive/data.pkl",
    "jit.onnx": ZIP + b"\x0a\0\0\0jit/data/0",
    "zip.onnx": ZIP + b"\x06\0\0\0m.onnx",
    "gzip.onnx": b"\x1f\x8b\x08" + b"\0" * 20,
    "gguf.onnx": b"GGUF\x03\0\0\0",
    "page.onnx": b"<!DOCTYPE html><html>404</html>",
    "config.onnx": b'{"model_type": "bert"}',
    "text.onnx": b"<\n  ir_version: 10\n>\ng (float[1] x) => (float[1] y) { y = Relu (x) }\n",
    "textproto.onnx": b"ir_version: 8\ngraph {\n}\n",
    "short.onnx": toys.attention().SerializeToString()[:-5],
    "length.onnx": b"\x3a\xff\xff\xff\xff\x0f",
    "longer.onnx": b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "varint.onnx": b"\x3a" + b"\xff" * 20,
    "groups.onnx": b"\x3b" * 70_000,
    "ends.onnx": b"\x3c" * 10,
    "wire.onnx": b"\x07\x00" * 10,
}
"""Files that hold something else."""


def first(model: ModelProto) -> TensorProto:
    """The weights that are changed."""
    return next(tensor for tensor in model.graph.initializer if tensor.name == "attn.q.weight")


def _dims(*dims: int) -> Change:
    def change(model: ModelProto) -> None:
        del first(model).dims[:]
        first(model).dims.extend(dims)

    return change


def _typed(model: ModelProto) -> None:
    tensor = first(model)
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * 3)


def _segment(model: ModelProto) -> None:
    first(model).segment.begin = 1


def _duplicate(model: ModelProto) -> None:
    model.graph.initializer.append(first(model))


def _duplicate_output(model: ModelProto) -> None:
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


def _duplicate_attribute(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.attribute)
    node.attribute.append(node.attribute[0])


def _reads(name: str) -> Change:
    def change(model: ModelProto) -> None:
        model.graph.node[0].input[0] = name or model.graph.node[0].output[0]

    return change


def _data_type(number: int) -> Change:
    return lambda model: setattr(first(model), "data_type", number)


def _unknown_attribute(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Softmax")
    node.attribute.append(helper.make_attribute("no_such_attribute", 1))


def _weights_of_another_size(model: ModelProto) -> None:
    toys.set_initializer(model, "attn.out.weight", toys.get_initializer(model, "attn.out.weight")[:1])


MODELS: dict[str, Change] = {
    "giant": _dims(2**40, 2**40),
    "overflowing": _dims(2**32, 2**32),
    "giant-with-zero": _dims(0, 2**62, 2**62),
    "negative": _dims(-1, 4),
    "many-axes": _dims(*[1] * 1000),
    "other-dims": _dims(2, 2),
    "typed-data": _typed,
    "segments": _segment,
    "type-0": _data_type(0),
    "type-99": _data_type(99),
    "wider-type": _data_type(TensorProto.DOUBLE),
    "strings": _data_type(TensorProto.STRING),
    "two-initializers": _duplicate,
    "two-outputs": _duplicate_output,
    "two-attributes": _duplicate_attribute,
    "cycle": _reads("y"),
    "self-loop": _reads(""),
    "undefined": _reads("nothing"),
    "attribute": _unknown_attribute,
    "no-opset": lambda model: model.ClearField("opset_import"),
    "no-nodes": lambda model: model.graph.ClearField("node"),
    "operator": lambda model: setattr(model.graph.node[0], "op_type", "NoSuchOperator"),
    "product": _weights_of_another_size,
}
"""Changes that make an invalid model of a toy."""


def set_entry(key: str, value: str) -> Change:
    """Change where the first tensor that is stored outside says that it lies."""

    def change(model: ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
                return
        tensor.external_data.add(key=key, value=value)

    return change


def _twice(model: ModelProto) -> None:
    next(t for t in model.graph.initializer if t.external_data).external_data.add(key="offset", value="0")


WEIGHTS: dict[str, Change] = {
    "missing": set_entry("location", "nowhere.bin"),
    "above": set_entry("location", "../secret.bin"),
    "above inside": set_entry("location", "sub/../../secret.bin"),
    "absolute": set_entry("location", "/etc/passwd"),
    "drive": set_entry("location", "C:\\secret.bin"),
    "backslash": set_entry("location", "..\\secret.bin"),
    "host": set_entry("location", "//host/x"),
    "here": set_entry("location", "."),
    "nul": set_entry("location", "nul\0byte"),
    "long": set_entry("location", "x" * 300),
    "no name": set_entry("location", ""),
    "model": set_entry("location", "m.onnx"),
    "offset": set_entry("offset", "99999999999999"),
    "negative offset": set_entry("offset", "-4"),
    "offset in letters": set_entry("offset", "1e3"),
    "giant offset": set_entry("offset", "99999999999999999999999999"),
    "overlap": set_entry("offset", "8"),
    "length": set_entry("length", "99999999"),
    "no length": set_entry("length", "0"),
    "twice": _twice,
    "private": set_entry("onnxheadprune.cut", "{}"),
}
"""Changes after which the external data of a model is not read."""


def stored_outside(folder: Path, change: Change = lambda model: None) -> Path:
    """A model `m.onnx` with its weights in `w.bin` beside it, and what is changed in the model."""
    folder.mkdir(parents=True)
    path = folder / "m.onnx"
    onnx.save(
        toys.attention(hidden=96, extra_weight=5000),
        path,
        save_as_external_data=True,
        location="w.bin",
        size_threshold=100,
    )
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path
