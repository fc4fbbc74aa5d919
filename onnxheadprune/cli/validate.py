"""`onnxheadprune validate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxheadprune.cli.options import FILE, json_option, run_options
from onnxheadprune.cli.outcome import emit_json


@click.command(short_help="Compare a pruned model with the masked original.")
@click.argument("model", type=FILE)
@click.argument("pruned", type=FILE)
@click.option("--heads", metavar="H", help="The removed heads, if the metadata of PRUNED does not say.")
@run_options
@json_option
def validate(model: Path, pruned: Path, as_json: bool, **settings: Any) -> int:
    """Check that PRUNED equals MODEL with the removed heads silenced, and measure the drift."""
    from onnxheadprune.api import validate as run_validate
    from onnxheadprune.errors import ValidationFailedError
    from onnxheadprune.report.console import err, out
    from onnxheadprune.report.validation import validation_report

    with err().status("validating"):
        result = run_validate(model, pruned, **settings)
    if as_json:
        emit_json(result.to_dict())
    else:
        out().print(*validation_report(result), sep="\n")
    return 0 if result.passed else ValidationFailedError.exit_code
