"""Models that are compared: two files, or the files of two folders, one with its like."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel, open_structure

if TYPE_CHECKING:
    from onnxheadprune.settings.calls import ValidateCall
    from onnxheadprune.settings.inputs import Running
    from onnxheadprune.validation.result import Validation

FILES = "files"
"""The list of results of a folder, one for each of its files."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A model and those that are compared with it."""

    file: str | None  # its name in the folders, None where there are no folders
    model: LoadedModel
    others: tuple[LoadedModel, ...]
    leads: bool = True  # whether units are chosen on it

    @cached_property
    def is_same(self) -> bool:
        """True if they are files of folders and the same to the last byte, with what lies beside them."""
        return self.file is not None and all(_same(self.model, other) for other in self.others)

    def misfit(self, running: Running) -> str | None:
        """Return why data is not for this model of a folder, None where it is."""
        if running.data is None or self.file is None:
            return None
        from onnxheadprune.data.calibration import calibration_data
        from onnxheadprune.data.sources import read_data
        from onnxheadprune.operators import view_of

        try:
            data = read_data(self.model, running, in_folder=True)
            if data is not None:
                calibration_data(data, view_of(self.model))
        except UsageError as error:
            return str(error)
        return None

    def validated(self, call: ValidateCall, progress: Callable[[str], object] = lambda _: None) -> Validation:
        """Validate the first of the others."""
        from onnxheadprune.workflow.validate import run_validation

        return run_validation(self.model, self.others[0], call, progress, in_folder=self.file is not None)


def paired(
    model: Path,
    others: Sequence[Path],
    *,
    follow_links: bool = False,
    leaders: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> list[Pair]:
    """A model with others; of folders the files of its networks, each with its like in every other folder.

    Args:
        leaders: of a folder only the file of each network that heads are chosen on.
        note: takes a sentence on files that another folder left out.
    """
    given = (model, *others)
    if not any(map(Path.is_dir, given)):
        first, *rest = (open_structure(path, follow_links=follow_links) for path in given)
        return [Pair(None, first, tuple(rest))]
    if not all(map(Path.is_dir, given)):
        raise UsageError("compare models with models, or folders with folders")
    from onnxheadprune.deploying.folders.agreement import paired_files

    found = paired_files(model, others, follow_links=follow_links, leaders=leaders, note=note)
    return [Pair(file.name, file.loaded, likes, leads) for file, likes, leads in found]


def to_validate(
    model: Path, pairs: Sequence[Pair], call: ValidateCall
) -> tuple[list[tuple[Pair, ValidateCall]], list[str]]:
    """Return the pairs of files to validate, those that differ, each with its call.

    A call has the folder's own tokenizer; without data that fits, the user's metric is not measured. Where all
    files are the same none is left out, and the comparison says so.

    Returns:
        Also the names of files that a cut of their folder left unchanged.
    """
    calls = [call] * len(pairs)
    if call.data is not None:
        from onnxheadprune.data.sources import with_own_tokenizer

        call = with_own_tokenizer(model, call)
        reasons = [pair.misfit(call) for pair in pairs]
        if all(reason is not None for reason in reasons):
            raise UsageError(f"the data fits none of the models: {reasons[0]}")
        unmeasured = replace(call, data=None, metric=None)
        calls = [call if reason is None else unmeasured for reason in reasons]
    same = [pair for pair in pairs if pair.is_same]
    left_out = same if len(same) < len(pairs) else []
    asked = [(pair, own) for pair, own in zip(pairs, calls, strict=True) if pair not in left_out]
    return asked, [str(pair.file) for pair in left_out]


def joined(
    pairs: Sequence[Pair], documents: Sequence[dict[str, Any]], *, leads: bool = False
) -> dict[str, Any]:
    """One document out of those of each pair: the only one, or a list of files."""
    if pairs and pairs[0].file is None:
        return documents[0]
    own = [{"file": pair.file, **({"leads": pair.leads} if leads else {})} for pair in pairs]
    return {FILES: [names | document for names, document in zip(own, documents, strict=True)]}


def _same(one: LoadedModel, other: LoadedModel) -> bool:
    ours, theirs = ({place: source.path for place, source in item.sources.items()} for item in (one, other))
    if ours.keys() != theirs.keys():
        return False
    graphs = [item.proto.SerializeToString(deterministic=True) for item in (one, other)]
    return graphs[0] == graphs[1] and all(
        filecmp.cmp(path, theirs[place], shallow=False) for place, path in ours.items()
    )
