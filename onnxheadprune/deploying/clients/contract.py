"""The questions of a cut to a runtime, and of a runtime to a folder, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeAlias

CONFIG = "config.json"
Json: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class ConfigChange:
    """One field of a configuration file that follows a cut.

    Attributes:
        file: its path in the folder.
        field: the names that lead to it, from the outermost.
        before: its value; None where there was none.
        after: the new one.
    """

    file: str
    field: tuple[str, ...]
    before: Any
    after: Any

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; the field is spelled as a JSON pointer."""
        names = [name.replace("~", "~0").replace("/", "~1") for name in self.field]
        return {**asdict(self), "field": "/" + "/".join(names)}

    def __str__(self) -> str:
        return f"{self.file}: {'.'.join(self.field)} {self.before} -> {self.after}"


@dataclass(frozen=True)
class CachedSite:
    """A site whose keys and values are inputs or outputs of a model.

    Attributes:
        index: its number in the export.
        name: its name in the export.
        before: its KV heads.
        after: those that are left; as before where the cache keeps its shape.
        head_size: of a key.
        groups: the query heads of each KV head that is left or goes, in indices of the original model.
        gone: KV heads that go, as positions in `groups`.
        leaves: whether its cache goes, inputs and outputs included.
    """

    index: int
    name: str
    before: int
    after: int
    head_size: int
    groups: tuple[tuple[int, ...], ...] = ()
    gone: tuple[int, ...] = ()
    leaves: bool = False


@dataclass(frozen=True)
class FileFacts:
    """A model of the folder, as far as a client asks.

    Attributes:
        name: its path in the folder, with slashes.
        is_float: whether its weights are float32.
        has_cache: whether it takes or gives keys and values.
        data_files: how many files with weights lie beside it.
        symbolic: inputs whose number of heads is not a number, of those with keys and values.
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
        config: what config.json says, empty without one.
        genai: what genai_config.json says, empty without one.
        others: every other file.
    """

    files: tuple[FileFacts, ...]
    config: Json = field(default_factory=dict)
    sites: tuple[CachedSite, ...] = ()
    others: tuple[str, ...] = ()
    genai: Json = field(default_factory=dict)

    @property
    def lost_caches(self) -> bool:
        """True if some cache goes, and others are numbered anew."""
        return any(site.leaves for site in self.sites)

    @property
    def cut_caches(self) -> bool:
        """True if some cache gets narrower."""
        return any(site.after != site.before for site in self.sites)

    def holds(self, *names: str) -> bool:
        """Return whether one of these models is there."""
        return any(file.name in names for file in self.files)


@dataclass(frozen=True)
class Client:
    """A program that loads the folder.

    Attributes:
        name: as `--runtime` takes it.
        title: as people write it.
        even_caches: whether it has one number for the KV heads of all layers.
        check: looks at the folder before anything is cut; gives sentences that its user should know, and raises
            `RefusedError` where the client could not load the folder.
        changes: the fields of configuration files that must follow a cut; raises `RefusedError` where none can say it.
        data_name: how the file with weights beside a model must be called ("{}" is the model's name), None for any.
    """

    name: str
    title: str
    even_caches: bool = False
    check: Callable[[Deployment], tuple[str, ...]] = lambda _: ()
    changes: Callable[[Deployment], tuple[ConfigChange, ...]] = lambda _: ()
    data_name: str | None = None
