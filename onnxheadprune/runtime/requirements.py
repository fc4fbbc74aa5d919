"""What the package needs and is not there: installed without its dependencies, nobody has looked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata

from onnxheadprune.runtime.packages import canonical, installed

_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)[^;]*?(?:>=\s*([0-9.]+))?[^;]*(;.*)?$")
_RUNTIME = "onnxruntime"


def unmet(
    runtime: str, needs: Iterable[str] | None = None, versions: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Requirements that do not hold, as in "tokenizers>=0.19 (there is none)".

    Args:
        runtime: the version of onnxruntime; any build of it will do.
        needs: requirements as a package declares them; None: those of this one.
        versions: installed packages by name; None: those of this environment.
    """
    there = installed() if versions is None else versions
    wanted: dict[str, str] = {}
    for need in _declared() if needs is None else needs:
        found = _REQUIREMENT.match(need)
        if found is not None and "extra" not in (found[3] or ""):
            name = canonical(found[1])
            wanted[_RUNTIME if name.startswith(_RUNTIME) else name] = found[2] or "0"
    for name, lowest in sorted(wanted.items()):
        version = runtime if name == _RUNTIME else there.get(name)
        if version is None or _numbers(version) < _numbers(lowest):
            has = "there is none" if version is None else f"there is {version}"
            yield f"{name}>={lowest} ({has})"


def _declared() -> list[str]:
    """Of this package; none where it was not installed but lies in the path."""
    try:
        return metadata.requires("onnxheadprune") or []
    except metadata.PackageNotFoundError:
        return []


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version: (1, 27, 0) of "1.27.0.dev3+cu13"; zeros at the end say nothing."""
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
