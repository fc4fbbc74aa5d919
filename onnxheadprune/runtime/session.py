"""Sessions: a model loaded into ONNX Runtime on one execution provider."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

import onnxheadprune.operators  # noqa: F401 records of operators, which sets of them are made of
from onnxheadprune.errors import InferenceError, MissingKernelError, ProviderError, heed
from onnxheadprune.model.bodies import nodes_of_model
from onnxheadprune.model.graph.operator import is_a
from onnxheadprune.model.load import LoadedModel, stored_bytes
from onnxheadprune.model.save import save_model
from onnxheadprune.model.storage.writing import temporary_folder
from onnxheadprune.model.tensors import Array
from onnxheadprune.model.typed_json import HIDDEN, JsonObject
from onnxheadprune.runtime.custom_ops import custom_ops, load_custom_ops
from onnxheadprune.runtime.deterministic import without_randomness
from onnxheadprune.runtime.foreign import quiet_stdout
from onnxheadprune.runtime.int8_saturation import fuses_int8, may_saturate, saturates, unrounded, unsaturated
from onnxheadprune.runtime.memory_limits import Turns, supplier, use_again

Result = TypeVar("Result")

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
SUFFIX = "ExecutionProvider"
FATAL_ONLY = 4
MOST_REUSED = 2000
"""Nodes up to which ONNX Runtime looks for memory that can be used again: some seconds."""
MOST_AHEAD = 8
"""Weights of a block that a file converts before the first is read; if it is more, nodes do not run in its order."""
BIAS = 2
"""Index of the bias among the inputs of `READS_BIAS` operators."""
OPTIONAL_BIAS = (1, 32)
"""The first version whose CPU kernels of these operators run without one."""
PATIENCE = 600.0
"""Seconds for one run of a model with a loop."""
NODE_BYTES = 2**12
"""Bytes of a node in a session, about."""
_LOAD = """
import sys, onnxruntime
if sys.argv[1] == "CUDAExecutionProvider" and hasattr(onnxruntime, "preload_dlls"):
    onnxruntime.preload_dlls()
options = onnxruntime.SessionOptions()
if sys.argv[2]:
    options.register_custom_ops_library(sys.argv[2])
for path in sys.argv[3:]:
    onnxruntime.InferenceSession(path, options, providers=[sys.argv[1], "CPUExecutionProvider"], enable_fallback=0)
"""
NO_KERNEL = ("NotImplemented", "RuntimeException")
"""Names of exceptions, each that of a status of ONNX Runtime. A kernel that finds its inputs wrong says Fail or
InvalidArgument; what it does not implement it throws, and that arrives as a RuntimeException."""
UNREGISTERED = "is not a registered function/op"
_ORT_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ")


@dataclass(frozen=True)
class Provider(JsonObject):
    """An execution provider that runs here."""

    name: str  # ONNX Runtime's name of it
    reason: str  # why it was taken
    threads: Annotated[int | None, HIDDEN] = (
        None  # cores that a session takes; None leaves that to ONNX Runtime
    )
    # what keeps a GPU that is there from being used, and the remedy; None where nothing does
    warning: Annotated[str | None, HIDDEN] = None

    @property
    def label(self) -> str:
        """The short name ("CPU")."""
        return self.name.removesuffix(SUFFIX)


class Session:
    """A model loaded into ONNX Runtime, its random nodes with fixed numbers.

    Attributes:
        providers: the providers that the session really uses, by priority.
    """

    def __init__(
        self,
        model: ModelProto | LoadedModel,
        provider: Provider,
        *,
        name: str = "the model",
        optimize: bool = False,
        keeping: bool = False,
        tf32: bool = False,
        exact_products: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: with its weights in memory, or a structure that refers to files; not changed.
            optimize: let ONNX Runtime rewrite the graph and round activations for packed weights, as a deployment
                does.
            keeping: outputs are kept by many: each has memory of its own, and nothing is rounded for packed weights.
            exact_products: integer products that ONNX Runtime makes when it optimizes do not saturate.
        """
        self.name = name
        rounding = optimize and not keeping
        options = options_of(optimize=optimize, threads=provider.threads)
        options.use_deterministic_compute = not rounding
        # Several sessions live side by side; idle ones must not burn the cores the running one needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Outputs lie in the session's arena, which lives and stays as large as it was until the last of them is gone.
        # At exact settings there are several sessions, and each would keep the most that it ever needed.
        options.enable_cpu_mem_arena = rounding
        if exact_products:
            options.add_session_config_entry("session.x64quantprecision", "1")
        if not rounding:
            use_again()
            # Where it packs weights itself (DequantizeLinear before MatMul), it would round for them too.
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        settings = {"use_tf32": int(tf32)} if provider.name == CUDA else {}
        loaded = without_randomness(LoadedModel.of(model, name))
        loaded = loaded if rounding else exactly(loaded)
        if not rounding and _conversions_ahead(loaded.proto) <= MOST_AHEAD:
            # In ONNX Runtime's own order most weights are converted (float16, int8) before the first is read.
            options.execution_order = onnx_runtime().ExecutionOrder.PRIORITY_BASED
        self._has_loop = has_loop(loaded.proto)
        require_kernels(loaded.proto, provider, name)
        nodes = len(loaded.proto.graph.node)
        # To find memory that can be used again takes time that grows with the square of the nodes.
        options.enable_mem_reuse = rounding and nodes <= MOST_REUSED
        self.size = stored_bytes(loaded.proto) + NODE_BYTES * nodes
        self._again = supplier(loaded, options, self, lasting=optimize)
        self._create = functools.partial(
            create, options=options, provider=provider, settings=settings, name=name
        )
        self._turns: Turns | None = None
        made = self._create(self._again())
        self._session: Any = made
        self.providers: tuple[str, ...] = tuple(made.get_providers())
        self._outputs = [output.name for output in made.get_outputs()]
        self._inputs = {item.name: item.type for item in made.get_inputs()}
        types = [*self._inputs.values(), *(output.type for output in made.get_outputs())]
        self._has_bfloat16 = "tensor(bfloat16)" in types

    def taking(self, turns: Turns) -> Session:
        """Take turns with others: one that holds a large model closes when another one runs, and opens when it runs."""
        if self.size > turns.spared:
            self._turns = turns
            turns.take(self)
        return self

    def close(self) -> None:
        """Give back its memory, until the session is asked for something again."""
        self._session = None

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The model's outputs by name.

        Args:
            feed: an array per graph input; entries that are no input of this model are ignored.
        """
        own = {name: value for name, value in feed.items() if name in self._inputs}
        return result_of_run(functools.partial(self._run, own), self.name, stops=self._has_loop)

    def _run(self, feed: Mapping[str, Array], options: Any) -> dict[str, Array]:
        if not self._has_bfloat16:
            return _flat(self._outputs, self.inner.run(self._outputs, feed, options))
        # NumPy has no bfloat16 of its own, so these values cross as raw 16-bit words.
        values = {name: to_ort(value) for name, value in feed.items()}
        outputs = self.inner.run_with_ort_values(self._outputs, values, options)
        return {name: from_ort(value) for name, value in zip(self._outputs, outputs, strict=True)}

    @property
    def inner(self) -> Any:
        """ONNX Runtime's own `InferenceSession`."""
        if self._turns is not None:
            self._turns.take(self)
        if self._session is None:
            self._session = self._create(self._again())
        return self._session

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self._inputs)

    def output_types(self) -> dict[str, int]:
        """The element type of each output; `TensorProto.UNDEFINED` of what is no tensor."""
        return {output.name: _elem_type(output.type) for output in self.inner.get_outputs()}

    def placement(self) -> dict[str, int]:
        """Number of nodes per provider, empty where this ONNX Runtime does not tell."""
        return placement_of(self.inner)


def has_loop(model: ModelProto) -> bool:
    """Return whether a model has a loop anywhere; any other model ends."""
    return any(is_a(node, "Loop") for node in nodes_of_model(model))


def result_of_run(run: Callable[[Any], Result], name: str, options: Any = None, *, stops: bool) -> Result:
    """The result of a run with some options.

    Args:
        stops: stop it when it takes longer than `PATIENCE`.

    Raises:
        InferenceError: if the model does not run; `MissingKernelError` if ONNX Runtime lacks a kernel for that.
    """
    try:
        return _stopped_in_time(run, options or onnx_runtime().RunOptions()) if stops else run(options)
    except Exception as error:  # onnxruntime's exceptions share no base class
        heed(error)
        raised = MissingKernelError if type(error).__name__ in NO_KERNEL else InferenceError
        raise raised(f"{name} does not run: {sentence(error)}") from error


def _stopped_in_time(run: Callable[[Any], Result], options: Any) -> Result:
    timer = threading.Timer(PATIENCE, setattr, (options, "terminate", True))
    timer.start()
    try:
        return run(options)
    except Exception as error:  # onnxruntime's exceptions share no base class
        if options.terminate:
            heed(error)
            raise TimeoutError(
                f"one run takes longer than {PATIENCE:.0f} seconds, and it has a loop"
            ) from error
        raise
    finally:
        timer.cancel()


def _conversions_ahead(model: ModelProto) -> int:
    """Return the largest number of converted weights that wait for their reader at a time, in file order."""
    stored = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    waiting: set[str] = set()
    most = 0
    for node in model.graph.node:
        waiting.difference_update(node.input)
        if node.input and stored.get(node.input[0], 0) > 1 and stored.keys() >= set(filter(None, node.input)):
            waiting.update(node.output)
        most = max(most, len(waiting))
    return most


def require_kernels(model: ModelProto, provider: Provider, name: str) -> None:
    """Refuse a model with a node whose kernel would end the process.

    Raises:
        MissingKernelError: if there is one.
    """
    version = onnx_runtime().__version__
    if provider.name != CPU or tuple(map(int, version.split(".")[:2])) >= OPTIONAL_BIAS:
        return
    for node in nodes_of_model(model):
        if is_a(node, "com.microsoft.Attention") and not any(node.input[BIAS : BIAS + 1]):
            raise MissingKernelError(
                f"{name} does not load in ONNX Runtime: on the CPU {node.op_type} -> {node.output[0]} needs a bias in"
                f" {version}, and without one it would end the process; ONNX Runtime"
                f" {'.'.join(map(str, OPTIONAL_BIAS))} runs it"
            )


def create(
    source: bytes | str, options: Any, provider: Provider, settings: Mapping[str, Any], name: str
) -> Any:
    """An `InferenceSession` that truly uses the provider."""
    providers: list[Any] = [(provider.name, dict(settings))]
    providers += [] if provider.name == CPU else [(CPU, {})]
    try:
        # The Python part of onnxruntime prints; stdout belongs to the command.
        with quiet_stdout():
            session = onnx_runtime().InferenceSession(source, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base class
        heed(error)
        why = sentence(error)
        if custom_ops() is None and UNREGISTERED in why:
            why = f"{why}; if a library has it, name that: `custom_ops=FILE`"
        raise InferenceError(f"{name} does not load in ONNX Runtime: {why}") from error
    if provider.name not in session.get_providers():
        raise ProviderError(f"{name} fell back from {provider.name} to {', '.join(session.get_providers())}")
    placed = placement_of(session)
    if placed and not placed.get(provider.name):
        raise ProviderError(
            f"not one node of {name} runs on {provider.name}: all {sum(placed.values())} are on"
            f" {', '.join(placed)}; use that one, or a model that {provider.label} supports"
        )
    return session


def placement_of(session: Any) -> dict[str, int]:
    """Number of nodes per provider of an `InferenceSession`, empty where this ONNX Runtime does not tell."""
    counts: Counter[str] = Counter()
    if hasattr(session, "get_provider_graph_assignment_info"):
        with contextlib.suppress(Exception):
            for part in session.get_provider_graph_assignment_info():
                counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def survives_optimization(models: Sequence[ModelProto | LoadedModel], provider: Provider) -> bool:
    """Return whether ONNX Runtime lives through optimizing these models.

    Version 1.31.1 crashes on float16 exports of `nn.MultiheadAttention`, and a crash in a native library
    takes the process with it. So another process tries first.
    """
    with temporary_folder() as folder:
        paths = [Path(folder, f"{position}.onnx") for position in range(len(models))]
        for model, path in zip(models, paths, strict=True):
            save_model(model, path)
        return loads_without_crash(paths, provider)


def loads_without_crash(paths: Sequence[Path], provider: Provider) -> bool:
    """The same for model files."""
    command = [sys.executable, "-c", _LOAD, provider.name, str(custom_ops() or ""), *map(str, paths)]
    result = subprocess.run(command, capture_output=True, check=False)
    # A Python exception ends with 1. It will be met again here, with its message.
    return result.returncode in (0, 1)


def versions() -> dict[str, str]:
    """Versions of what a validation depends on."""
    ort = onnx_runtime()
    package = getattr(ort, "package_name", "onnxruntime")
    return {"onnx": onnx.__version__, "onnxruntime": ort.__version__, "onnxruntime_package": package}


def exactly(model: LoadedModel) -> LoadedModel:
    """The model in a form whose integer products lose nothing on this machine: what the exact settings run."""
    model = unrounded(model)
    return unsaturated(model) if saturates_here(model) else model


def saturates_here(model: LoadedModel, *, deployed: bool = False) -> bool:
    """Return whether a model has integer products, or gets them when deployed, that this machine's kernel saturates."""
    # The probe opens a session, so only models that it matters for pay for it.
    return (may_saturate(model) or (deployed and fuses_int8(model))) and saturates(onnx_runtime())


def options_of(*, optimize: bool, threads: int | None) -> Any:
    """The options of any session; no `threads` leave ONNX Runtime its own choice."""
    ort = onnx_runtime()
    options, level = ort.SessionOptions(), ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    load_custom_ops(options, custom_ops())
    return options


@functools.cache
def onnx_runtime() -> Any:
    """The onnxruntime module."""
    try:
        import onnxruntime
    except ImportError as error:
        heed(error)
        raise ProviderError(
            f"onnxruntime cannot be imported ({sentence(error)}); install one of its packages, onnxruntime-gpu or"
            " onnxruntime, and only one"
        ) from error

    # Provider libraries log through the default logger before any session exists.
    onnxruntime.set_default_logger_severity(FATAL_ONLY)
    return onnxruntime


def _elem_type(kind: str) -> int:
    """ONNX's number of "tensor(float16)", 0 of what is no tensor or has a type of its own."""
    found = re.fullmatch(r"tensor\((\w+)\)", kind)
    return 0 if found is None else dict(TensorProto.DataType.items()).get(found[1].upper(), 0)


def _flat(names: Sequence[str], outputs: Sequence[Any]) -> dict[str, Array]:
    """Outputs by name; the elements of a sequence become entries of their own, an absent optional none."""
    flat: dict[str, Array] = {}
    for name, output in zip(names, outputs, strict=True):
        if isinstance(output, np.ndarray):
            flat[name] = output
        elif isinstance(output, list):
            flat |= {f"{name}[{index}]": np.asarray(item) for index, item in enumerate(output)}
    return flat


def to_ort(value: Array, device: str = "cpu") -> Any:
    """ONNX Runtime's handle of a contiguous array: on the CPU in its memory, else a copy on the device."""
    kind = onnx_runtime().OrtValue
    if value.dtype.name == "bfloat16":
        # NumPy has no such type of its own; ONNX Runtime copies this one to the device in every run.
        return kind.ortvalue_from_numpy_with_onnx_type(value.view(np.uint16), TensorProto.BFLOAT16)
    return kind.ortvalue_from_numpy(value, device, 0)


def from_ort(value: Any) -> Array:
    """The array of a handle: of what lies in the CPU's memory perhaps a view."""
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    data = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape)) if math.prod(shape) else b""
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def sentence(error: BaseException) -> str:
    """The first line of an ONNX Runtime error without its decoration."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = _ORT_PREFIX.sub("", lines[0]) if lines else type(error).__name__
    return text.rstrip(". ") if len(text) <= 400 else text[:400] + " ..."
