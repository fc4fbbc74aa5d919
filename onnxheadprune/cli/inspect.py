"""`onnxheadprune inspect`."""

from __future__ import annotations

from pathlib import Path

from onnxheadprune.cli.deriving import command
from onnxheadprune.cli.outcome import emit_json
from onnxheadprune.settings.writing import FollowLinks, Json, Model


@command()
def inspect(model: Model, follow_links: FollowLinks = False, as_json: Json = False) -> int:
    """Show the attention sites and feed-forward blocks of MODEL, and which units can be removed.

    The vocabulary and early exits are listed, too. MODEL may be a folder as exporters write it: its sites are numbered
    as `prune` takes them.
    """
    if model.is_dir():
        return _inspect_folder(model, follow_links=follow_links, as_json=as_json)
    from dataclasses import replace

    from onnxheadprune.attention.sites.find import analysis_of
    from onnxheadprune.attention.vocabulary.find import vocabularies
    from onnxheadprune.errors import RefusedError
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.model.storage.tensors import stored_size
    from onnxheadprune.reporting.console import err, out, print_error
    from onnxheadprune.reporting.sites import (
        exits_report,
        layers_report,
        near_misses,
        sites_report,
        vocabulary_report,
    )
    from onnxheadprune.workflow.inspection import EarlyExits, LayerSummary

    loaded = open_structure(model, follow_links=follow_links)
    analysis = analysis_of(loaded)
    sites = replace(analysis.sites, elements=stored_size(loaded.proto).elements)
    exits, layers = EarlyExits.of(loaded, analysis), LayerSummary.every(analysis)
    tokens = [item.to_dict(stored_size(loaded.proto).bytes) for item in vocabularies(analysis.view)]
    rows = [*exits_report(exits), *vocabulary_report(tokens)]
    if as_json:
        further = {
            "layers": [layer.to_dict() for layer in layers],
            "early_exits": exits.to_dict(),
            "vocabularies": tokens,
        }
        emit_json(sites.to_dict() | further)
    elif sites.every:
        out().print(*sites_report(sites, [*layers_report(layers), *rows]), sep="\n")
    else:
        err().print(*near_misses(sites), *rows, sep="\n")
    if sites.every:
        return 0
    hint = "; see above for what came close" if sites.near_misses or sites.no_heads or sites.hidden else ""
    print_error(
        f"{model} has no attention site, for no contraction with weights sums over the heads of a product of two"
        f" activations, and no feed-forward block{hint}"
    )
    return RefusedError.exit_code


def _inspect_folder(folder: Path, *, follow_links: bool, as_json: bool) -> int:
    """Show the sites of a folder.

    Returns:
        The exit code.
    """
    from onnxheadprune.attention.vocabulary.find import vocabularies
    from onnxheadprune.deploying.folders.opening import looked_at
    from onnxheadprune.deploying.folders.types import sites_to_dict
    from onnxheadprune.reporting.console import out
    from onnxheadprune.reporting.folder import export_report
    from onnxheadprune.reporting.sites import vocabulary_report

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
