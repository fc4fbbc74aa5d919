"""The requirements of a runtime on a model folder, and the configuration fields that pruning changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias

from onnxheadprune.model.typed_json import JsonObject, Spelled

CONFIG = "config.json"
Json: TypeAlias = Mapping[str, Any]
Place: TypeAlias = tuple[str, tuple[str, ...], Json]
"""A configuration in a file: the file, the path of names to it, and its content."""
EXPECTED = ("model.onnx", "onnx/model.onnx")
"""Places of encoders; text-embeddings-inference loads the first one that is there."""


def _pointer(names: tuple[str, ...]) -> str:
    """A JSON pointer."""
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)


@dataclass(frozen=True)
class ConfigChange(JsonObject):
    """One field of a configuration file that a cut changes.

    Attributes:
        file: its path in the folder.
        field: its path of names, outermost first.
        before: the old value; None where there was none.
        after: the new value.
    """

    file: str
    field: Annotated[tuple[str, ...], Spelled(str, _pointer)]
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.file}: {'.'.join(self.field)} {self.before} -> {self.after}"


@dataclass(frozen=True)
class CachedSite:
    """A site whose keys and values are inputs or outputs of a model.

    Attributes:
        index: its number in the export.
        name: its name in the export.
        before: its KV heads.
        after: the remaining KV heads; as before where the cache keeps its shape.
        head_size: of a key.
        groups: the query heads of each remaining or removed KV head, in indices of the original model; none where
            they cannot be removed one by one, or the cache keeps its shape whatever is removed.
        leaves: whether its cache is removed, inputs and outputs included.
    """

    index: int
    name: str
    before: int
    after: int
    head_size: int
    groups: tuple[tuple[int, ...], ...] = ()
    leaves: bool = False


@dataclass(frozen=True)
class FileFacts:
    """The properties of a model of the folder that runtimes depend on.

    Attributes:
        name: its path in the folder, with slashes.
        is_float: whether its inputs and outputs of floating point are float32.
        has_cache: whether it has caches as inputs or outputs.
        data_files: the number of its external data files.
        symbolic: cache inputs with a symbolic number of heads.
    """

    name: str
    is_float: bool = True
    has_cache: bool = False
    data_files: int = 0
    symbolic: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """A folder before and after a cut, for a runtime to check.

    Attributes:
        config: the content of config.json, empty without one.
        genai: the content of genai_config.json, empty without one.
        others: every other file.
    """

    files: tuple[FileFacts, ...]
    config: Json = field(default_factory=dict)
    sites: tuple[CachedSite, ...] = ()
    others: tuple[str, ...] = ()
    genai: Json = field(default_factory=dict)

    @property
    def lost_caches(self) -> bool:
        """True if some cache is removed, and others are renumbered."""
        return any(site.leaves for site in self.sites)

    @property
    def cut_caches(self) -> bool:
        """True if some cache gets narrower."""
        return any(site.after != site.before for site in self.sites)

    def holds(self, *names: str) -> bool:
        """Return whether one of these models is there."""
        return any(file.name in names for file in self.files)


@dataclass(frozen=True)
class CacheFields:
    """The fields by which a runtime allocates the caches of all layers, with equally many heads of one size.

    Attributes:
        place: where they are.
        heads: those with the number of KV heads.
        hidden: that with the number of heads times the size of one, None where it stays.
        allocated: the heads of a cache and their size as the runtime computes them, None where that is not known.
    """

    place: Place
    heads: tuple[str, ...]
    hidden: str | None = None
    allocated: tuple[int, int] | None = None

    def following(self, heads: int, size: int) -> tuple[ConfigChange, ...]:
        """The fields for other caches."""
        file, way, config = self.place
        wanted = dict.fromkeys(self.heads, heads)
        wanted |= {} if self.hidden is None else {self.hidden: heads * size}
        return tuple(
            ConfigChange(file, (*way, name), config.get(name), value)
            for name, value in wanted.items()
            if config.get(name) != value
        )


def number_in(config: Json, names: Iterable[str]) -> int | None:
    """The first of some fields that is a number, None without."""
    return next((config[name] for name in names if type(config.get(name)) is int), None)


@dataclass(frozen=True)
class Client:
    """A runtime that loads the folder.

    Attributes:
        name: as `--runtime` takes it.
        title: its name in messages.
        caches: returns the fields by which it allocates the caches of all layers alike, which follow a cut of these;
            None where it reads them from the models. Raises `RefusedError` if no field can express the cut.
        reads: the files that it loads beside the models.
        check: checks the folder before anything is cut; returns notes for its users, and raises
            `RefusedError` if the runtime could not load the folder.
        changes: the other fields of configuration files to change.
        data_name: the required name of a model's external data file ("{}" is the model's name), None for any.
        heads_of_inputs: it reads the heads of caches from the inputs, so the inputs must declare them.
        layers: where it reads the number of layers, by which it counts caches: a file, the path of names in it, and
            the configuration there; None where it counts none.
    """

    name: str
    title: str
    caches: Callable[[Deployment], CacheFields | None] = lambda _: None
    reads: tuple[str, ...] = ()
    check: Callable[[Deployment], tuple[str, ...]] = lambda _: ()
    changes: Callable[[Deployment], tuple[ConfigChange, ...]] = lambda _: ()
    data_name: str | None = None
    heads_of_inputs: bool = False
    layers: Callable[[Deployment], Place] | None = None
