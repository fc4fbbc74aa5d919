"""`onnxheadprune batch`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.settings.calls import Pruning
from onnxheadprune.settings.cutting import AMOUNT, TOKENS, UNITS
from onnxheadprune.settings.inputs import RANDOM, Dask, Jobs, Running
from onnxheadprune.settings.setting import OUTPUT, Setting
from onnxheadprune.settings.writing import Json, Storing

if TYPE_CHECKING:
    from onnxheadprune.runtime.feeds.samples import DataSource
    from onnxheadprune.workflow.requests import Request


@command(makes=("pruned", "folder"))
def batch(
    folder: Annotated[Path, Setting("A folder of models.", metavar="DIR", argument=True)],
    given: Pruning,
    output: Annotated[
        Path | None,
        Setting(
            "The folder for the pruned models [default: DIR.pruned].",
            metavar="OUTDIR",
            flags="-o --output",
            creates="*",
            section=OUTPUT,
        ),
    ] = None,
    storing: Storing = Storing(),
    jobs: Jobs = 1,
    dask: Dask = None,
    as_json: Json = False,
) -> int:
    """Prune every .onnx below DIR into the folder OUTDIR, each on its own, whatever happens to the others.

    What an earlier run did and proved, and is still as it was, is skipped.
    """
    from onnxheadprune.workflow.requests import Request, Writing

    specified = (getattr(given, name) for name in f"{UNITS} {AMOUNT} {TOKENS} exit".split())
    if all(item is None for item in specified) and given.fuse == "none":
        raise click.UsageError(
            "specify what to remove with --heads or --vocab, how much with --ratio, or fuse with --fuse",
            click.get_current_context(),
        )
    assert output is not None
    request = Request.of(given, Writing(storing=storing)).on(given.data)
    read = None if given.data is None else _DataReader.rooted(given)
    return run_batch(folder, request, output, jobs=jobs, dask=dask, read=read, as_json=as_json)


def run_batch(
    folder: Path,
    request: Request,
    output: Path,
    *,
    jobs: int,
    as_json: bool,
    dask: str | None = None,
    read: _DataReader | None = None,
) -> int:
    """Prune a folder of models and report what became of each.

    Args:
        dask: the address of a Dask scheduler to work on, or "local"; None works in processes here.
    """
    from onnxheadprune.deploying.batch import prune_batch
    from onnxheadprune.reporting.console import err, out, rows_of
    from onnxheadprune.reporting.folder import item_line
    from onnxheadprune.workflow.executors import open_executor

    console = err()
    with open_executor(jobs if dask is not None else 1, dask) as executor:
        result = prune_batch(
            folder,
            request,
            output,
            jobs=jobs,
            executor=executor,
            read=read,
            progress=lambda item: console.print(item_line(item)),
        )
    if as_json:
        emit_json(result.to_dict())
    else:
        out().print(*rows_of(result.facts()), sep="\n")
    return result.exit_code


@dataclass(frozen=True)
class _DataReader:
    """Reads the data that options name, in whatever process a model is pruned."""

    running: Running

    @classmethod
    def rooted(cls, running: Running) -> _DataReader:
        """The same from any working directory."""
        data, tokenizer = running.data, running.tokenizer
        if data is not None and data != RANDOM and Path(data).exists():
            data = str(Path(data).absolute())
        return cls(replace(running, data=data, tokenizer=None if tokenizer is None else tokenizer.absolute()))

    def __call__(self, model: Path) -> DataSource | None:
        """The data for one model."""
        return read_data(model, self.running, in_folder=True)

    def files(self, model: Path) -> dict[str, str]:
        """Files read for it: the data, the tokenizer, and what completes them beside the model."""
        from onnxheadprune.data.sources import files_read

        return files_read(model, self.running)
