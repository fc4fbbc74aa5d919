"""`onnxheadprune doctor`."""

from __future__ import annotations

from typing import Annotated

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.settings.setting import Setting
from onnxheadprune.settings.writing import Json


@command()
def doctor(
    wanted: Annotated[
        tuple[str, ...],
        Setting(
            "End with exit code 4 unless this execution provider runs; can be repeated.",
            metavar="P",
            flags="--provider",
        ),
    ] = (),
    as_json: Json = False,
) -> int:
    """Show versions, GPUs and libraries, and try every execution provider of this ONNX Runtime on a small model."""
    from onnxheadprune.errors import ProviderError
    from onnxheadprune.reporting.console import err, out, print_error
    from onnxheadprune.reporting.doctor import doctor_report
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
