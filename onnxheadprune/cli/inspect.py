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
    from onnxheadprune.attention.sites.find import analysis_of
    from onnxheadprune.errors import RefusedError
    from onnxheadprune.model.load import open_structure
    from onnxheadprune.reporting.console import err, out, print_error
    from onnxheadprune.reporting.sites import inspection_report
    from onnxheadprune.runtime.loading import why_not_loaded
    from onnxheadprune.workflow.inspection import Inspection

    loaded = open_structure(model, follow_links=follow_links)
    found = Inspection.of(loaded, analysis_of(loaded))
    sites, unloadable = found.sites, why_not_loaded(loaded)
    if as_json:
        emit_json(found.to_dict() | {"does_not_load": unloadable})
    else:
        console = out() if sites.known or found.vocabularies else err()
        has_text = bool(found.vocabularies) and _has_tokenizer(model)
        if rows := [*inspection_report(found, unloadable, has_text=has_text)]:
            console.print(*rows, sep="\n")
    if sites.known or found.vocabularies:
        return 0
    hint = "; see above for what came close" if sites.near_misses or sites.no_heads or sites.hidden else ""
    hint = "; see above for what could not be analysed" if found.failed else hint
    print_error(
        f"{model} has no attention site, for no contraction with weights sums over the heads of a product of two"
        f" activations, and no feed-forward block{hint}"
    )
    return RefusedError.exit_code


def _has_tokenizer(model: Path) -> bool:
    from onnxheadprune.data.vocabulary import has_tokenizer

    return has_tokenizer(model.parent)


def _inspect_folder(folder: Path, *, follow_links: bool, as_json: bool) -> int:
    """Show the sites of a folder."""
    from functools import partial

    from onnxheadprune.attention.sites.find import Analysis
    from onnxheadprune.data.vocabulary import has_tokenizer
    from onnxheadprune.deploying.folders.opening import looked_at
    from onnxheadprune.deploying.folders.result import sites_to_dict
    from onnxheadprune.model.analysis_errors import NotAnalysed, try_analysis
    from onnxheadprune.reporting.console import out
    from onnxheadprune.reporting.folder import export_report
    from onnxheadprune.reporting.sites import not_loaded
    from onnxheadprune.runtime.loading import why_not_loaded
    from onnxheadprune.workflow.inspection import LAYERS, Inspection, LayerSummary

    export, match, why = looked_at(folder, follow_links=follow_links)
    analyses = {
        file.name: Analysis(file.loaded.proto, file.loaded.name, file.view, file.sites)
        for file in export.models
    }
    found = {file.name: Inspection.of(file.loaded, analyses[file.name]) for file in export.models}
    leaders = [analyses[network.leader.name] for network in match.networks]
    listed = try_analysis(LAYERS, partial(LayerSummary.among, match.as_sites(str(folder)), leaders))
    # Of the file whose layers cannot be analysed the same is said.
    layers = () if isinstance(listed, NotAnalysed) else listed
    unloadable = {file.name: why_not_loaded(file.loaded) for file in export.models}
    if as_json:
        files = [
            {
                "file": file.name,
                "part": file.part,
                **found[file.name].to_dict(),
                "does_not_load": unloadable[file.name],
            }
            for file in export.models
        ]
        networks = [
            {"leader": network.leader.name, "files": [file.name for file in network.files]}
            for network in match.networks
        ]
        document = {
            "networks": networks,
            **sites_to_dict(match),
            "layers": [layer.to_dict() for layer in layers],
            "files": files,
            "disagreement": why,
        }
        emit_json({"folder": str(folder), **document})
    else:
        rows = [row for name, reason in unloadable.items() for row in not_loaded(reason, name)]
        has_text = any(item.vocabularies for item in found.values()) and has_tokenizer(folder)
        report = export_report(str(folder), match, found, layers, rows, why=why, has_text=has_text)
        out().print(*report, sep="\n")
    return 0
