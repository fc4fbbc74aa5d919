"""`onnxheadprune doctor`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from onnxheadprune.cli.belonging import LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.options import json_option
from onnxheadprune.cli.outcome import emit_json


@dataclass(frozen=True)
class DoctorOptions:
    """What `doctor` is given."""

    wanted: tuple[str, ...]
    as_json: bool


@click.command(cls=LawfulCommand, short_help="Show what is installed and where models can run.")
@click.option(
    "--provider",
    "wanted",
    multiple=True,
    metavar="P",
    help="End with exit code 4 unless this execution provider runs; can be repeated.",
)
@json_option
@bundled(DoctorOptions)
def doctor(given: DoctorOptions) -> int:
    """Show versions, cards and libraries, and try every execution provider of this ONNX Runtime on a small model."""
    from onnxheadprune.cli.report.console import err, out, print_error
    from onnxheadprune.cli.report.doctor import doctor_report
    from onnxheadprune.errors import ProviderError
    from onnxheadprune.runtime.doctor import diagnose
    from onnxheadprune.runtime.providers import AUTO

    named = [name for name in given.wanted if name.lower() != AUTO]
    with err().status("trying the execution providers"):
        found = diagnose(*named)
    if given.as_json:
        emit_json(found.to_dict())
    else:
        out().print(*doctor_report(found), sep="\n")
    missing = [check for check in (found.check(name) for name in named) if not check.runs]
    for check in missing:
        print_error(f"{check.name} does not run here: {check.obstacle}; {check.advice}")
    return ProviderError.exit_code if missing else 0
