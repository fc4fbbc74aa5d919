"""`onnxheadprune run`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.belonging import JOB, RUN, LawfulCommand, unlawful
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.calibrating import Samples, read_data
from onnxheadprune.cli.deploying import with_own_tokenizer
from onnxheadprune.cli.options import FILE, OUTPUT, Running, json_option
from onnxheadprune.cli.presenting import Presentation
from onnxheadprune.cli.repeating import run_record

if TYPE_CHECKING:
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.feeds import DataSource
    from onnxheadprune.workflow.jobs.reading import Job


@dataclass(frozen=True)
class RunOptions:
    """What `run` is given."""

    job: Path | None
    settings: tuple[str, ...]
    junit: Path | None
    schema: bool
    as_json: bool


@click.command(cls=LawfulCommand, laws=RUN, short_help="Do all steps of a job file, and ask its limits.")
@click.argument("job", type=FILE, required=False)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the job, like prune.ratio=0.3; null takes it away. Can be repeated.",
)
@click.option("--junit", type=OUTPUT, metavar="FILE", help="Also write steps and limits as JUnit XML.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of a job, and do nothing else.")
@json_option
@bundled(RunOptions)
def run(given: RunOptions) -> int:
    """Do what the YAML file JOB asks for: score, prune, recover, quantize, validate, bench, gate.

    What an earlier run did, and is as it was, is not done again; a job that was interrupted goes on. Ends with exit
    code 1 if a limit is broken.
    """
    _require_packages()
    if given.schema:
        from onnxheadprune.workflow.jobs.schema import published

        sys.stdout.write(published())
        return 0
    if given.job is None:
        raise click.UsageError("name the JOB, a YAML file", click.get_current_context())
    from onnxheadprune.workflow.jobs.reading import read_job

    job = read_job(given.job, given.settings)
    sentence = unlawful(JOB, job.said())
    if sentence is not None:
        raise job.refused(sentence)
    return _run(job, given)


def _run(job: Job, given: RunOptions) -> int:
    from onnxheadprune.cli.report.console import err, print_error
    from onnxheadprune.cli.report.job import job_report, save_results
    from onnxheadprune.cli.report.junit import save_junit
    from onnxheadprune.cli.report.progress import progress_on
    from onnxheadprune.model.storage.claims import Making, check_distinct
    from onnxheadprune.workflow.jobs.asked import Given
    from onnxheadprune.workflow.jobs.run import makings, readings, run_job

    if given.junit is not None:
        check_distinct([Making("--junit", given.junit), *makings(job)], lambda: readings(job))
    record = run_record()
    with progress_on(err()) as progress:
        result = run_job(job, Given(lambda model: _calibration(job, model), record), progress)
    presentation = Presentation()
    with presentation.prepared():
        save_results(result, record)
        if given.junit is not None:
            save_junit(result, given.junit)
    if given.as_json:
        presentation.json({**result.to_dict(), "run": record})
    else:
        presentation.rows(*job_report(result))
    lost = presentation.deliver(result.model)
    if result.error is not None:
        print_error(f"the step {result.failed} failed: {result.error}")
    return result.exit_code or lost


def _calibration(job: Job, model: Path | LoadedModel) -> DataSource | None:
    """The calibration data that a job names, read for a model or for one of a folder; None where it names none."""
    from onnxheadprune.workflow.jobs.asked import source_of

    keys = job.keys.data
    if keys is None:
        return None
    text, tokenizer, images = (
        None if path is None else job.at(path) for path in (keys.text, keys.tokenizer, keys.images)
    )
    size = keys.image_size
    samples = Samples(
        text,
        keys.text_field,
        keys.target_field,
        keys.max_samples,
        tokenizer,
        keys.max_length,
        images,
        (size, size) if isinstance(size, int) else size,
        keys.image_mean,
        keys.image_std,
        keys.random,
    )
    path = None if keys.path is None else source_of(job, keys.path)
    in_folder = not isinstance(model, Path)
    if in_folder:
        samples = with_own_tokenizer(job.at(job.keys.model), samples)
    return read_data(model, samples, Running(path, job.keys.provider, job.keys.seed), in_folder=in_folder)


def _require_packages() -> None:
    """Whether what jobs are read and reported with is installed.

    Raises:
        UsageError: if not.
    """
    from importlib.util import find_spec

    from onnxheadprune.errors import UsageError

    missing = [name for name in ("pydantic", "yaml", "junitparser") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f'run needs packages that are not here ({", ".join(missing)}): pip install "onnxheadprune[jobs]"'
        )
