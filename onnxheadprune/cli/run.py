"""`onnxheadprune run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.inputs import read_data
from onnxheadprune.cli.presenting import Presentation, run_record
from onnxheadprune.settings.setting import Setting, excludes

if TYPE_CHECKING:
    from onnxheadprune.deploying.jobs.reading import Job
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.runtime.feeds.samples import DataSource


@command()
def run(
    job: Annotated[Path | None, Setting("A YAML file.", argument=True, rules=(excludes("schema"),))] = None,
    settings: Annotated[
        tuple[str, ...],
        Setting(
            "Set a key of the job, like prune.ratio=0.3; null removes it. Can be repeated.",
            metavar="KEY=VALUE",
            flags="--set",
            rules=(excludes("schema"),),
        ),
    ] = (),
    junit: Annotated[
        Path | None,
        Setting(
            "Also write steps and limits as JUnit XML.",
            metavar="FILE",
            creates=".xml",
            rules=(excludes("schema"),),
        ),
    ] = None,
    schema: Annotated[bool, Setting("Print the JSON schema of a job, and do nothing else.")] = False,
    as_json: Annotated[
        bool, Setting("Print one JSON document on stdout.", flags="--json", rules=(excludes("schema"),))
    ] = False,
) -> int:
    """Do what the YAML file JOB asks for: score, prune, recover, quantize, validate, bench, gate.

    What an earlier run did, and is as it was, is not done again; a job that was interrupted goes on. Ends with exit
    code 1 if a limit is broken.
    """
    from onnxheadprune.errors import require_packages

    require_packages("run", "jobs", "pydantic", "yaml", "junitparser")
    if schema:
        from onnxheadprune.deploying.jobs.keys import schema as schema_of

        sys.stdout.write(json.dumps(schema_of(), indent=2, sort_keys=True) + "\n")
        return 0
    if job is None:
        raise click.UsageError("name the JOB, a YAML file", click.get_current_context())
    from onnxheadprune.deploying.jobs.reading import as_key, read_job, require_effective
    from onnxheadprune.errors import spell_as

    spell_as(as_key)
    read = read_job(job, settings)
    require_effective(read)
    return _run(read, junit, as_json)


def _run(job: Job, junit: Path | None, as_json: bool) -> int:
    from onnxheadprune.deploying.jobs.asked import Given
    from onnxheadprune.deploying.jobs.run import makings, readings, run_job
    from onnxheadprune.model.storage.claims import Making, check_distinct
    from onnxheadprune.reporting.console import err, print_error
    from onnxheadprune.reporting.job import job_report, save_junit, save_results
    from onnxheadprune.reporting.progress import progress_on

    if junit is not None:
        check_distinct([Making("--junit", junit), *makings(job)], lambda: readings(job))
    record = run_record()
    with progress_on(err()) as progress:
        result = run_job(job, Given(lambda model: _calibration(job, model), record), progress)
    presentation = Presentation()
    with presentation.prepared():
        save_results(result, record)
        if junit is not None:
            save_junit(result, junit)
    if as_json:
        presentation.json({**result.to_dict(), "run": record})
    else:
        presentation.rows(*job_report(result))
    lost = presentation.deliver(result.model)
    if result.error is not None:
        print_error(f"the step {result.failed} failed: {result.error}")
    return result.exit_code or lost


def _calibration(job: Job, model: Path | LoadedModel) -> DataSource | None:
    """The calibration data that a job names, read for a model or for one of a folder; None where it names none."""
    from onnxheadprune.deploying.jobs.asked import running_of

    running, in_folder = running_of(job), not isinstance(model, Path)
    if in_folder:
        from onnxheadprune.data.sources import with_own_tokenizer

        running = with_own_tokenizer(job.at(job.keys.model), running)
    return read_data(model, running, in_folder=in_folder)
