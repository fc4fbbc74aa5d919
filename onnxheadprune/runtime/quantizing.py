"""ONNX Runtime's own quantizer: which of its ways, with which settings, on which data. What it does is its own."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from onnx import ModelProto

from onnxheadprune.errors import (
    HeadPruneError,
    RefusedError,
    UsageError,
    heed,
    require_packages,
)
from onnxheadprune.model.bodies import has_bodies
from onnxheadprune.model.graph.operator import OPERATORS, kind
from onnxheadprune.model.load import INLINE_LIMIT, LoadedModel, load_model, stored_bytes
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage.writing import require_room, temporary_folder
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.foreign import quiet_stdout
from onnxheadprune.runtime.int8_saturation import saturates
from onnxheadprune.runtime.session import onnx_runtime, sentence
from onnxheadprune.settings.measuring import Rounding, To

LEAST_BLOCK = 16


def decided(how: Rounding) -> Rounding:
    """Return the settings with `reduce_range` decided: seven of eight bits where the processor's products saturate."""
    if how.to not in get_args(To):
        raise UsageError(f"a model is quantized to one of {', '.join(get_args(To))}, not {how.to!r}")
    size = how.block_size
    if size < LEAST_BLOCK or size & (size - 1):
        raise UsageError(f"a block has a power of two of inputs, {LEAST_BLOCK} or more, not {size}")
    if how.reduce_range is not None:
        return how
    return replace(how, reduce_range=how.to != "int4" and saturates(onnx_runtime()))


def quantized(loaded: LoadedModel, how: Rounding, feeds: Sequence[Feed] = ()) -> ModelProto:
    """Quantize a model by ONNX Runtime's quantizer; the result has its weights in memory."""
    absent = sorted(set(how.exclude) - {node.name for node in loaded.proto.graph.node})
    if absent:
        raise UsageError(f"{loaded.name} has no node named {absent[0]!r} to leave as it is")
    with temporary_folder() as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "quantized.onnx")
        # The quantizer writes files beside its input, so that is no file of the user's.
        save_model(loaded, source)
        task = _Task(loaded, how, feeds, source, target)
        try:
            with _quiet():
                _WAYS[how.to](task)
            return load_model(target)
        except HeadPruneError:
            raise
        except Exception as error:  # the quantizer's exceptions share no base class
            heed(error)
            # What it reads back of files that were cut off, it calls corrupt.
            require_room(folder, source.stat().st_size)
            raise RefusedError(
                f"ONNX Runtime's quantizer cannot make {how.to} of {loaded.name}: {sentence(error)}"
            ) from error


@dataclass(frozen=True)
class _Task:
    loaded: LoadedModel
    how: Rounding
    feeds: Sequence[Feed]
    source: Path
    target: Path

    @property
    def is_large(self) -> bool:
        """True if the weights need a file of their own."""
        return stored_bytes(self.loaded.proto) > INLINE_LIMIT

    @property
    def weights(self) -> dict[str, Any]:
        """Arguments that both ways to int8 share."""
        return {
            "per_channel": self.how.per_channel,
            "reduce_range": bool(self.how.reduce_range),
            "nodes_to_exclude": list(self.how.exclude),
            "use_external_data_format": self.is_large,
        }


def _dynamic(task: _Task) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # A decoder with and without a cache in one file keeps its layers in the branches of an If.
    nested = has_bodies(task.loaded.proto)
    quantize_dynamic(
        task.source,
        task.target,
        weight_type=QuantType.QInt8,
        extra_options={"EnableSubgraph": nested, "MatMulConstBOnly": True},
        **task.weights,
    )


def _static(task: _Task) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    names = {item.name for item in task.loaded.proto.graph.input}
    products = _stored_products()

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The feeds, one after the other."""

        def __init__(self) -> None:
            self._left = iter(task.feeds)

        def get_next(self) -> Feed | None:
            feed = next(self._left, None)
            return None if feed is None else {name: value for name, value in feed.items() if name in names}

    quantize_static(
        task.source,
        task.target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=products,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # What a product gives stays float: its range is the widest, and nothing after it computes in eight bits.
        extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": products},
        **task.weights,
    )


def _stored_products() -> list[str]:
    """Return what static quantization covers: products with weights, and tables.

    Products of two activations, additions, normalisations and softmaxes lose far more by eight bits than they gain
    (`benchmarks/quantization.py --all-operators`).
    """
    from onnxruntime.quantization.registry import QDQRegistry

    known = {*kind("Gather"), *(name for name, record in OPERATORS.items() if record.operands is not None)}
    return sorted(known.intersection(QDQRegistry))


def _blocks(task: _Task) -> None:
    require_packages("int4 (ONNX Runtime's quantizer)", "ir", "onnx_ir")
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # Zero points of two blocks would share a byte, and heads of one byte could only be cut together.
    quantizer = MatMulNBitsQuantizer(
        load_model(task.source),
        bits=4,
        block_size=task.how.block_size,
        is_symmetric=True,
        nodes_to_exclude=list(task.how.exclude),
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(task.target), task.is_large)


_WAYS: dict[To, Callable[[_Task], None]] = {"int8-dynamic": _dynamic, "int8-qdq": _static, "int4": _blocks}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer talks to the root logger, gives it handlers, and prints; none of that is the user's."""
    root, disabled = logging.getLogger(), logging.root.manager.disable
    handlers, level = list(root.handlers), root.level
    logging.disable(logging.CRITICAL)
    try:
        with quiet_stdout(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
