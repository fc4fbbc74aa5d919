"""Sessions for measuring: inputs and outputs stay on the device, the optimized graph can be looked at."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from onnxheadprune.errors import InferenceError
from onnxheadprune.model.bodies import nodes_in
from onnxheadprune.model.load import parse_structure
from onnxheadprune.model.storage.writing import temporary_folder_of
from onnxheadprune.model.tensors import Array
from onnxheadprune.runtime.session import (
    CUDA,
    FATAL_ONLY,
    Provider,
    create,
    has_loop,
    onnx_runtime,
    options_of,
    placement_of,
    require_kernels,
    result_of_run,
    to_ort,
)

DEVICES = {
    CUDA: "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "DmlExecutionProvider": "dml",
}
"""The devices on which providers take tensors; the others take them from the CPU's memory."""
NO_CAPTURE = "-1"
"""`gpu_graph_id` of a run that is neither captured nor replayed."""


@dataclass(frozen=True)
class BoundOptions:
    """Options of a session that is measured."""

    threads: int | None = None  # of the CPU's kernels; None leaves ONNX Runtime's own choice
    cuda_graph: bool = False  # capture each shape as a CUDA graph and replay it
    inspect: bool = False  # write the optimized graph, so that its operators can be counted
    # let CUDA's arena grow by what is needed only, so that its size can be read as a peak
    lean_arena: bool = False


class BoundSession:
    """A model in ONNX Runtime as a deployment runs it: all optimizations, TF32 where that is the default."""

    def __init__(
        self,
        path: Path,
        provider: Provider,
        options: BoundOptions | None = None,
        *,
        name: str = "the model",
    ) -> None:
        """Load a model file."""
        self.name, self.provider = name, provider
        model = parse_structure(path).model
        require_kernels(model, provider, name)
        self.has_loop = has_loop(model)
        self._options = options or BoundOptions()
        settings: dict[str, Any] = {}
        if provider.name == CUDA and self._options.cuda_graph:
            settings["enable_cuda_graph"] = "1"
        if provider.name == CUDA and self._options.lean_arena:
            settings["arena_extend_strategy"] = "kSameAsRequested"
        self._optimized: Path | None = None
        if self._options.inspect:
            self._optimized = temporary_folder_of(self) / "optimized.onnx"
            # Providers that compile whole subgraphs (TensorRT) cannot write theirs.
            with contextlib.suppress(InferenceError):
                self.session = create(str(path), self._session_options(), provider, settings, name)
                return
            self._optimized = None
        self.session = create(str(path), self._session_options(), provider, settings, name)

    def _session_options(self) -> Any:
        options = options_of(optimize=True, threads=self._options.threads)
        # Threads may spin within a run, as they do in a deployment, but not while another model is measured.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self._optimized is not None:
            options.optimized_model_filepath = str(self._optimized)
            beside = "session.optimized_model_external_initializers"
            options.add_session_config_entry(f"{beside}_file_name", "weights.bin")
            options.add_session_config_entry(f"{beside}_min_size_in_bytes", "1024")
        return options

    def placement(self) -> dict[str, int]:
        """Number of nodes per provider, empty where this ONNX Runtime does not tell."""
        return placement_of(self.session)

    def operators(self) -> dict[str, int]:
        """Nodes of the optimized graph by operator ("Softmax", "com.microsoft:BiasGelu").

        Empty where the session was opened without `inspect`, or the provider's graph cannot be written.
        """
        if self._optimized is None or not self._optimized.is_file():
            return {}
        graph = onnx.load(self._optimized, load_external_data=False).graph
        return dict(sorted(Counter(map(_operator, nodes_in(graph.node))).items()))

    def bind(self, feed: Mapping[str, Array], graph_id: int = 1) -> Bound:
        """Bind inputs and outputs for one feed.

        Args:
            graph_id: number of the CUDA graph that this feed's shapes get, from 1 up (0 is ONNX Runtime's own).
        """
        return Bound(self, feed, graph_id if self._options.cuda_graph else None)


class Bound:
    """One session with one feed on the device and buffers for the outputs."""

    def __init__(self, owner: BoundSession, feed: Mapping[str, Array], graph_id: int | None) -> None:
        self._session, self._name = owner.session, owner.name
        self._binding = owner.session.io_binding()
        device = DEVICES.get(owner.provider.name, "cpu")
        self._run_options = _run_options(None if graph_id is None else NO_CAPTURE)
        self._kept = []
        try:
            for item in owner.session.get_inputs():
                value = to_ort(np.ascontiguousarray(feed[item.name]), device)
                self._kept.append(value)
                self._binding.bind_ortvalue_input(item.name, value)
            names = [item.name for item in owner.session.get_outputs()]
            for name in names:
                self._binding.bind_output(name, device)
            # A loop that ends in the first run ends in all others, which have the same inputs.
            self.run(stops=owner.has_loop)
            # The buffers of the first run serve all others: nothing is allocated while the clock runs.
            outputs = self._binding.get_outputs()
            for name, value in zip(names, outputs, strict=True):
                if value.is_tensor():
                    self._binding.bind_ortvalue_output(name, value)
        except KeyError as error:
            raise InferenceError(f"{owner.name} has an input {error} that the feed lacks") from error
        self._run_options = _run_options(None if graph_id is None else str(graph_id))

    def run(self, *, stops: bool = False) -> None:
        """One run, finished when it returns, or stopped if it takes too long."""
        result_of_run(self._run, self._name, self._run_options, stops=stops)

    def _run(self, options: Any) -> None:
        self._session.run_with_iobinding(self._binding, options)
        self._binding.synchronize_outputs()

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last run, on the CPU."""
        names = [item.name for item in self._session.get_outputs()]
        return dict(zip(names, self._binding.copy_outputs_to_cpu(), strict=True))


def _run_options(graph_id: str | None) -> Any:
    options = onnx_runtime().RunOptions()
    options.log_severity_level = FATAL_ONLY
    if graph_id is not None:
        options.add_run_config_entry("gpu_graph_id", graph_id)
    return options


def _operator(node: NodeProto) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}"
