"""`onnxheadprune inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from onnxheadprune.cli.belonging import LawfulCommand
from onnxheadprune.cli.bundles import bundled
from onnxheadprune.cli.deploying import follow_links_option, is_folder
from onnxheadprune.cli.folders import inspect_export
from onnxheadprune.cli.options import FILE, json_option
from onnxheadprune.cli.outcome import emit_json


@dataclass(frozen=True)
class InspectOptions:
    """What `inspect` is given."""

    model: Path
    follow_links: bool
    as_json: bool


@click.command(cls=LawfulCommand, short_help="Show the sites and their heads.")
@click.argument("model", type=FILE)
@follow_links_option
@json_option
@bundled(InspectOptions)
def inspect(given: InspectOptions) -> int:
    """Show the attention sites and feed-forward blocks of MODEL, which units can be removed, and its early exits.

    MODEL may be a folder as exporters write it: its sites are numbered as `prune` takes them.
    """
    if is_folder(given.model):
        return inspect_export(given.model, follow_links=given.follow_links, as_json=given.as_json)
    from dataclasses import replace

    from onnxheadprune.attention.analysis import analysis_of
    from onnxheadprune.cli.report.console import err, out, print_error
    from onnxheadprune.cli.report.exits import exits_report
    from onnxheadprune.cli.report.layers import layers_report
    from onnxheadprune.cli.report.sites import near_misses, sites_report
    from onnxheadprune.errors import RefusedError
    from onnxheadprune.model.load import model_name, open_structure
    from onnxheadprune.model.storage.tensors import stored_size
    from onnxheadprune.workflow.exits import find_exits
    from onnxheadprune.workflow.layers import summaries

    loaded = open_structure(given.model, follow_links=given.follow_links)
    analysis = analysis_of(loaded.proto, model_name(given.model), loaded.sources)
    sites = replace(analysis.sites, elements=stored_size(loaded.proto).elements)
    exits, layers = find_exits(loaded), summaries(analysis)
    if given.as_json:
        further = {"layers": [layer.to_dict() for layer in layers], "early_exits": exits.to_dict()}
        emit_json(sites.to_dict() | further)
    elif sites.every:
        out().print(*sites_report(sites, [*layers_report(layers), *exits_report(exits)]), sep="\n")
    else:
        err().print(*near_misses(sites), *exits_report(exits), sep="\n")
    if sites.every:
        return 0
    hint = "; see above for what came close" if sites.near_misses or sites.no_heads or sites.hidden else ""
    print_error(
        f"{given.model} has no attention site, for no contraction with weights sums over the heads of a product of two"
        f" activations, and no feed-forward block{hint}"
    )
    return RefusedError.exit_code
