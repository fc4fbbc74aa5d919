"""`onnxheadprune doctor`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.settings.setting import Setting
from onnxheadprune.settings.writing import Json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxheadprune.runtime.doctor import Diagnosis, ProviderCheck


@command()
def doctor(
    wanted: Annotated[
        tuple[str, ...],
        Setting(
            "End with exit code 4 unless this execution provider runs; can be repeated.",
            metavar="P",
            flags="--provider",
            offers="cpu cuda",
        ),
    ] = (),
    as_json: Json = False,
) -> int:
    """Show versions, GPUs and libraries, and try every execution provider of this ONNX Runtime on a small model."""
    from onnxheadprune.errors import ProviderError
    from onnxheadprune.reporting.console import err, out, print_error
    from onnxheadprune.runtime.doctor import diagnose
    from onnxheadprune.runtime.providers import AUTO

    named = [name for name in wanted if name.lower() != AUTO]
    with err().status("trying the execution providers"):
        found = diagnose(*named)
    if as_json:
        emit_json(found.to_dict())
    else:
        out().print(*doctor_report(found), sep="\n")
    missing = [check for check in (found.check(name) for name in named) if not check.runs]
    for check in missing:
        print_error(f"{check.name} does not run here: {check.obstacle}; {check.advice}")
    return ProviderError.exit_code if missing else 0


def doctor_report(found: Diagnosis) -> Iterator[RenderableType]:
    """Versions and cards, then the providers with what they lack."""
    from onnxheadprune.model.spelling import many
    from onnxheadprune.reporting.console import row
    from onnxheadprune.runtime import SUFFIX

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
    from onnxheadprune.reporting.console import Row

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

    from onnxheadprune.reporting.console import table
    from onnxheadprune.runtime import SUFFIX

    made = table("provider", "runs", "why not, and what to do", wraps=("why not, and what to do",))
    for check in checks:
        mark = Text("yes", "green") if check.runs else Text("no", "red")
        why = "" if check.obstacle is None else f"{check.obstacle}; {_COMMAND.sub('', check.advice or '')}"
        made.add_row(check.name.removesuffix(SUFFIX), mark, why)
    return made
