"""Microsoft Olive: head pruning as one of its passes, before its quantization.

Olive knows passes from a package configuration. This prints its own with `HeadPruning` added, or writes it to a file:

    python -m onnxheadprune.integrations.olive --package-config olive_package.json
    olive run --config run.json --package-config olive_package.json

`HeadPruning` is imported when it is first used, so this module works without Olive.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxheadprune.errors import HeadPruneError, UsageError, heed

if TYPE_CHECKING:
    from onnxheadprune.integrations.olive_pass import HeadPruning

__all__ = ["HeadPruning", "package_config"]

PASS = {
    "module_path": "onnxheadprune.integrations.olive.HeadPruning",
    "supported_providers": ["*"],
    "supported_accelerators": ["*"],
    "supported_precisions": ["*"],
    "supported_algorithms": [],
    "supported_quantization_encodings": [],
    "dataset": "dataset_optional",
}
"""The entry of the pass."""


def package_config() -> dict[str, Any]:
    """Olive's own package configuration with `HeadPruning` added."""
    _require_olive()
    from olive.package_config import OlivePackageConfig

    path = Path(OlivePackageConfig.get_default_config_path())
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**document, "passes": {**document["passes"], "HeadPruning": PASS}}


@click.command()
@click.option(
    "--package-config",
    "output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write it to FILE, which must not be there yet, instead of printing it.",
)
def main(output: Path | None) -> None:
    """Olive's package configuration with the pass HeadPruning, for `olive run --package-config`."""
    try:
        text = json.dumps(package_config(), indent=2) + "\n"
    except HeadPruneError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        click.echo(f"error: {output} cannot be written: {error.strerror or error}", err=True)
        sys.exit(UsageError.exit_code)
    click.echo(f"olive run --config RUN.json --package-config {output}")


def _require_olive() -> None:
    try:
        import olive.package_config  # noqa: F401
    except ImportError as error:
        heed(error)
        raise UsageError(
            f"Olive cannot be imported ({error}): pip install olive-ai requests, in an environment with one build of"
            " onnxruntime"
        ) from error


def __getattr__(name: str) -> Any:
    if name != "HeadPruning":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _require_olive()
    from onnxheadprune.integrations.olive_pass import HeadPruning

    return HeadPruning


if __name__ == "__main__":
    main()
