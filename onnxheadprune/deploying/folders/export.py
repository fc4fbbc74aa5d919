"""An export: the models of a folder with their sites, which part and precision each file is, and all other files."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from onnx import TensorProto

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.data.beside import SHELF
from onnxheadprune.errors import HeadPruneError, ModelError, UsageError
from onnxheadprune.model.documents import CONFIGURATION, read_object, without_models
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.model.load import LoadedModel, open_structure, stored_bytes
from onnxheadprune.model.storage.tensors import tensors_of
from onnxheadprune.operators import view_of
from onnxheadprune.settings.measuring import To

CARD = "README.md"
"""The model card of a folder."""
_PRECISION = re.compile(
    r"[-_.](quantized|optimized|fp32|fp16|bf16|float32|float16|int8|uint8|int4|uint4|q4|q4f16|q8|bnb4"
    r"|quint8|qint8|qint4|quint4|avx2|avx512|avx512_vnni|arm64|vnni|o[1-4]|gpu|cpu)$",
    re.IGNORECASE,
)
_WAYS: Mapping[frozenset[str], To] = {
    frozenset({"q4", "q4f16", "int4", "uint4", "qint4", "quint4", "bnb4"}): "int4",
    frozenset({"quantized", "q8", "int8", "uint8", "qint8", "quint8"}): "int8-dynamic",
}
"""The quantization that suffixes of file names stand for."""
_ROLES = frozenset(
    "encoder decoder text vision visual image audio speech embed embeds embeddings embedding unet vae transformer"
    " language lm head prompt mask prefill decode past projector projection vocoder postnet backbone connector"
    " controlnet generator joiner joint predictor adapter safety checker tokenizer detokenizer safetychecker".split()
)
"""Words that say what a part of a model is for."""


def part_of(name: str) -> str:
    """The part of a model that a file holds: its name without the folder `onnx` and without what names a precision.

    >>> part_of("onnx/model_qint8_avx512_vnni.onnx"), part_of("unet/model_fp16.onnx")
    ('model', 'unet/model')
    """
    path = PurePosixPath(name)
    stem = path.stem
    while (shorter := _PRECISION.sub("", stem)) and shorter != stem:
        stem = shorter
    return "/".join([*(folder for folder in path.parts[:-1] if folder != SHELF), stem])


def quantized_to(name: str) -> To | None:
    """The way of `quantize` that makes a file of such a name again; None where its name tells none.

    >>> quantized_to("onnx/model_quint8_avx2.onnx"), quantized_to("model_q4.onnx"), quantized_to("model_fp16.onnx")
    ('int8-dynamic', 'int4', None)
    """
    words = re.split(r"[-_.]", PurePosixPath(name).stem.lower())
    found = [to for words_of, to in _WAYS.items() if not words_of.isdisjoint(words)]
    return found[0] if found else None


def says_its_part(part: str) -> bool:
    """Return whether a part's name says what it is for, so that others may stand beside it.

    >>> says_its_part("model"), says_its_part("unet/model"), says_its_part("decoder_with_past_model")
    (True, True, True)
    >>> says_its_part("bert"), says_its_part("model_a")
    (False, False)
    """
    words = re.split(r"[^a-z]+", part.lower())
    return part == "model" or not _ROLES.isdisjoint(words)


SUFFIX = ".onnx"
FLOAT, HALF, QUANTIZED = range(3)
"""Precisions of files, the most precise one first."""
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_PACKED = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)


@dataclass(frozen=True, eq=False)
class ModelFile:
    """One model of an export."""

    name: str  # its path in the export, with slashes
    part: str  # which part of the model it is; several files of one part are the same in other precisions
    loaded: LoadedModel  # the model, large weights on disk
    view: GraphView
    sites: Sites
    precision: int  # `FLOAT`, `HALF` or `QUANTIZED`
    size: int  # bytes of its weights

    @property
    def inputs(self) -> int:
        """Number of its inputs."""
        return len(self.loaded.proto.graph.input)

    @property
    def weights(self) -> tuple[str, ...]:
        """The files with its weights, as paths in the export with slashes."""
        folder = PurePosixPath(self.name).parent
        return tuple(
            str(folder / location)
            for location, source in self.loaded.sources.items()
            if source.path in self.loaded.data_files
        )


def or_exclude(name: str) -> str:
    """The end of a sentence on a file that keeps others from being cut."""
    return f"; or leave {PurePosixPath(name).name} out with `exclude={name}`"


@dataclass(frozen=True, eq=False)
class Export:
    """A folder of models that belong together."""

    root: Path
    models: tuple[ModelFile, ...]
    others: tuple[str, ...]  # every other file but the weights of models, as paths in the folder with slashes
    excluded: tuple[str, ...] = ()  # models that are left out, by their paths

    def document(self, name: str) -> dict[str, Any]:
        """The content of a configuration file; empty where there is none."""
        return read_object(self.root / name, CONFIGURATION) if name in self.others else {}

    def model(self, name: str) -> ModelFile:
        """The model of a file."""
        return next(item for item in self.models if item.name == name)


def open_export(root: Path, *, follow_links: bool = False, exclude: Sequence[str] = ()) -> Export:
    """The models of a folder and of those below it.

    Args:
        follow_links: read files through links that lead out of the folder, as in a hub's cache.
        exclude: models that are left out with their weights: paths, names of files, or patterns of these.
    """
    files = sorted(_files(root, follow_links))
    names = models_in(files)
    if not names:
        raise UsageError(without_models(root))
    excluded = _excluded(names, exclude)
    models = tuple(_model(root, name, follow_links) for name in names if name not in excluded)
    weights = {_resolved(path) for item in models for path in item.loaded.data_files}
    for name in excluded:
        with contextlib.suppress(HeadPruneError):
            weights |= set(map(_resolved, open_structure(root / name, follow_links=follow_links).data_files))
    others = (name for name in files if name not in names and _resolved(root / name) not in weights)
    return Export(root, models, tuple(others), excluded)


def models_in(files: Iterable[str]) -> list[str]:
    """The models among the files of a folder."""
    return [name for name in files if name.endswith(SUFFIX)]


def not_in(root: Path, export: Export, *, follow_links: bool = False) -> tuple[str, ...]:
    """The models of a folder that another one left out, and holds in another precision."""
    there, parts = {file.name for file in export.models}, {file.part for file in export.models}
    names = models_in(sorted(_files(root, follow_links)))
    return tuple(name for name in names if name not in there and part_of(name) in parts)


def _excluded(names: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """The names that match some pattern, as a path or as the name of a file."""
    found = [
        [name for name in names if any(fnmatch(item, pattern) for item in (name, PurePosixPath(name).name))]
        for pattern in patterns
    ]
    if not all(found):
        raise UsageError(f"`exclude`: no model of the folder is called {patterns[found.index([])]}")
    excluded = tuple(sorted({name for some in found for name in some}))
    if len(excluded) == len(names):
        raise UsageError("`exclude` names all models of the folder")
    return excluded


def _model(root: Path, name: str, follow_links: bool) -> ModelFile:
    loaded = open_structure(root / name, follow_links=follow_links)
    try:
        view = view_of(loaded)
        sites = sites_of(view, loaded.name)
    except HeadPruneError as error:
        told = str(error) if loaded.name in str(error) else f"{loaded.name}: {error}"
        raise ModelError(told) from error
    return ModelFile(name, part_of(name), loaded, view, sites, _precision(loaded), stored_bytes(loaded.proto))


def _files(root: Path, follow_links: bool) -> Iterator[str]:
    """Paths of all files in the folder, with slashes; hidden folders (.git, .cache) are no part of an export."""
    home = root.resolve()

    def lost(error: OSError) -> None:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror or error}") from error

    for folder, below, names in os.walk(root, followlinks=follow_links, onerror=lost):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in (*below, *names):
            _check_link(Path(folder, name), home, follow_links)
        for name in names:
            path = Path(folder, name)
            if not path.is_file():
                raise UsageError(
                    f"{path} is not a regular file, so the folder cannot be copied; remove it first"
                )
            yield path.relative_to(root).as_posix()


def _check_link(path: Path, home: Path, follow_links: bool) -> None:
    """Check whether what is there may be read: links are followed within the folder, and others by request."""
    if not path.is_symlink():
        return
    place = _resolved(path)
    if follow_links:
        if path.is_dir() and _resolved(path.parent).is_relative_to(place):
            raise UsageError(f"{path} is a link to a folder above it, so the folder has no end")
    elif path.is_dir() or not place.is_relative_to(home):
        where = "which is outside of the folder" if not place.is_relative_to(home) else "a folder"
        raise UsageError(
            f"{path} is a link to {place}, {where}, as in a hub's cache; read through such links with"
            f" `follow_links`"
        )


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a link to itself
        return path


def _precision(loaded: LoadedModel) -> int:
    """By the type in which most numbers of matrices are stored."""
    sizes = dict.fromkeys((FLOAT, HALF, QUANTIZED), 0)
    for tensor, _ in tensors_of(loaded.proto):
        if len(tensor.dims) < 2:
            continue
        kind = FLOAT
        if tensor.data_type in _PACKED:
            kind = QUANTIZED
        elif tensor.data_type in _HALVES:
            kind = HALF
        sizes[kind] += math.prod(tensor.dims)
    return max(sizes, key=lambda kind: (sizes[kind], -kind))
