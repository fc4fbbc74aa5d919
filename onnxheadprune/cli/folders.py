"""What the commands do with a folder of models that belong together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxheadprune.cli.cutting import Showing
from onnxheadprune.cli.deploying import folder_request, reader_of
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.cli.presenting import Presentation, command_line, run_record
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.writing import Deploying

if TYPE_CHECKING:
    from onnxheadprune.deploying.folders.types import FolderResult
    from onnxheadprune.model.load import LoadedModel
    from onnxheadprune.workflow.requests import Request


def prune_export(
    folder: Path,
    request: Request,
    deploying: Deploying,
    running: Running,
    showing: Showing,
    dry_run: bool,
) -> int:
    """Prunes a folder and reports it.

    Returns:
        The exit code.
    """
    from onnxheadprune.deploying.folders.prune import prune_folder
    from onnxheadprune.model.storage.assembly import check_folder
    from onnxheadprune.reporting.console import err
    from onnxheadprune.reporting.folder import folder_report
    from onnxheadprune.reporting.page import save_page
    from onnxheadprune.reporting.plan import planned_output
    from onnxheadprune.reporting.progress import progress_on

    told = None if request.writing.output is None else Path(request.writing.output)
    ahead = told if dry_run else None
    if dry_run:
        if told is not None:
            check_folder(told, folder)
        request = replace(request, writing=replace(request.writing, output=None))
    asked = folder_request(folder, request, deploying, reader_of(folder, running))
    asked = replace(asked, command=command_line())
    would = {} if ahead is None else {"would_write": str(ahead)}
    presentation = Presentation()

    def ready(result: FolderResult) -> None:
        document = {**result.to_dict(), **would, "run": run_record()}
        with presentation.prepared():
            if showing.report is not None:
                save_page(showing.report, document)
        if showing.as_json:
            presentation.json(document)
        else:
            presentation.rows(*folder_report(result), *planned_output(ahead))

    with progress_on(err()) as progress:
        result = prune_folder(folder, asked, progress, ready)
    return presentation.deliver(result.output)


def inspect_export(folder: Path, *, follow_links: bool, as_json: bool) -> int:
    """Shows the sites of a folder.

    Returns:
        The exit code.
    """
    from onnxheadprune.attention.vocabulary.find import vocabularies
    from onnxheadprune.deploying.folders.opening import looked_at
    from onnxheadprune.deploying.folders.types import sites_to_dict
    from onnxheadprune.reporting.console import out
    from onnxheadprune.reporting.folder import export_report
    from onnxheadprune.reporting.vocabulary import vocabulary_report

    export, match, why = looked_at(folder, follow_links=follow_links)
    tokens = {
        file.name: [item.to_dict(file.size) for item in vocabularies(file.view)] for file in export.models
    }
    if as_json:
        files = [
            {"file": file.name, "part": file.part, **file.sites.to_dict(), "vocabularies": tokens[file.name]}
            for file in export.models
        ]
        networks = [
            {"leader": network.leader.name, "files": [file.name for file in network.files]}
            for network in match.networks
        ]
        found = {"networks": networks, **sites_to_dict(match), "files": files, "disagreement": why}
        emit_json({"folder": str(folder), **found})
    else:
        found_first = next((item for item in tokens.values() if item), [])
        out().print(*export_report(str(folder), match, why), *vocabulary_report(found_first), sep="\n")
    return 0


def leader_of(folder: Path, follow_links: bool) -> LoadedModel:
    """The file of a folder that heads are chosen on.

    Raises:
        UsageError: if it holds several networks.
        HeadPruneError: if it cannot be read.
    """
    from onnxheadprune.deploying.folders.opening import opened
    from onnxheadprune.errors import UsageError

    _, match = opened(folder, follow_links=follow_links)
    if len(match.networks) > 1:
        names = ", ".join(network.leader.name for network in match.networks)
        raise UsageError(f"{folder} holds {len(match.networks)} networks; name the file of one: {names}")
    return match.networks[0].leader.loaded
