"""The report of `doctor` for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from onnxheadprune.display.spelling import many
from onnxheadprune.reporting.console import Row, row, table
from onnxheadprune.runtime import SUFFIX

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxheadprune.runtime.providers import Diagnosis, ProviderCheck


def doctor_report(found: Diagnosis) -> Iterator[RenderableType]:
    """Versions and cards, then the providers with what they lack."""
    yield row("versions", _listed(found.versions))
    yield row("package", _listed(found.runtime_packages) or "onnxruntime was not installed by pip")
    yield row("GPUs", _cards(found))
    yield row("CUDA", _cuda(found))
    yield row("processor", many(found.cores, "core"))
    yield ""
    yield _providers(found.providers)
    yield ""
    for check in found.providers:
        yield from _commands(check.name.removesuffix(SUFFIX), check.advice or "")
    yield row("auto takes", f"{found.auto.label}: {found.auto.reason}")
    for warning in found.warnings:
        yield row("warning", _COMMAND.sub("", warning), "bold yellow")
        yield from _commands("", warning)


_COMMAND = re.compile(r" \((pip [^()]+)\)")


def _commands(label: str, advice: str) -> Iterator[RenderableType]:
    """The commands in an advice, each in a line of its own, which can be pasted at every width."""
    return (Row(label, found, is_command=True) for found in _COMMAND.findall(advice))


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _cards(found: Diagnosis) -> str:
    if not found.cards:
        return "no NVIDIA driver answers (nvidia-smi)"
    cards = (f"{card.name}" + (f", {card.memory_mib} MiB" if card.memory_mib else "") for card in found.cards)
    return f"{'; '.join(cards)}; driver {found.cards[0].driver}, for CUDA up to {found.driver_cuda or '?'}"


def _cuda(found: Diagnosis) -> str:
    built = f"built for CUDA {found.built_for_cuda}" if found.built_for_cuda else "built without CUDA"
    packages = _listed(found.cuda_packages) or "no pip package with CUDA or cuDNN libraries"
    loaded = ", ".join(found.loaded_libraries.values())
    cudnn = f"cuDNN {found.cudnn}" if found.cudnn else "no cuDNN found"
    return f"onnxruntime is {built}; {cudnn}; {packages}" + (f"; loaded {loaded}" if loaded else "")


def _providers(checks: tuple[ProviderCheck, ...]) -> RenderableType:
    from rich.text import Text

    made = table("provider", "runs", "why not, and what to do", wraps=("why not, and what to do",))
    for check in checks:
        mark = Text("yes", "green") if check.runs else Text("no", "red")
        why = "" if check.obstacle is None else f"{check.obstacle}; {_COMMAND.sub('', check.advice or '')}"
        made.add_row(check.name.removesuffix(SUFFIX), mark, why)
    return made
