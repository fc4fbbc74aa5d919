"""Settings of output: where it is written, after which checks, and for which runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from onnxheadprune.settings.registry import RUNTIMES
from onnxheadprune.settings.setting import (
    CHANGES,
    DISPLAY,
    EXECUTION,
    OUTPUT,
    Setting,
    Text,
    excludes,
    requires,
)

Beside: TypeAlias = Literal["auto", "always", "never"]
RuntimeName: TypeAlias = Literal[tuple(RUNTIMES)]  # type: ignore[valid-type]  # type checkers read api/typed.py


_LISTED = f"{', '.join([*RUNTIMES][:-1])} or {[*RUNTIMES][-1]}"


@dataclass(frozen=True, kw_only=True)
class Loudness:
    """Verbosity of the output."""

    SECTION: ClassVar[str] = DISPLAY

    quiet: Annotated[
        bool,
        Setting(
            "Print errors only, and the document of --json.", flags="-q --quiet", rules=(excludes("verbose"),)
        ),
    ] = False
    verbose: Annotated[
        bool,
        Setting(
            "Print every step as it begins, and where in the program an error came from.",
            flags="-v --verbose",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Replacing:
    """Replacement of existing files."""

    SECTION: ClassVar[str] = OUTPUT

    force: Annotated[
        bool,
        Setting(
            "Replace existing files that this tool has not written, too. Inputs, and folders with files in them, are"
            " never replaced.",
            also="overwrite yes",
        ),
    ] = False


Model = Annotated[Path, Setting("The exported model.", argument=True)]
Pruned = Annotated[Path, Setting("The pruned model.", argument=True)]
Output = Annotated[
    Path | None,
    Setting(
        "Where to write the result [default: beside the input, as MODEL.pruned.onnx].",
        metavar="OUT",
        flags="-o --output",
        creates="*",
        section=OUTPUT,
        also="out output-path output-model",
    ),
]
Json = Annotated[bool, Setting("Print one JSON document on stdout.", flags="--json")]
DryRun = Annotated[bool, Setting("Show what would change; write no model.")]
Report = Annotated[
    Path | None,
    Setting("What was done and proven, as one HTML page.", metavar="FILE.html", creates=".html .htm"),
]
FollowLinks = Annotated[
    bool,
    Setting(
        "Read files through links that lead out of their folder, as in a hub's cache.", section=EXECUTION
    ),
]
AcceptInconclusive = Annotated[
    bool,
    Setting(
        "Write even if the heads matter too little for a wrong cut to show.",
        rules=(excludes("dry_run"), excludes("validate=False")),
        section=OUTPUT,
    ),
]
Runtime = Annotated[
    RuntimeName | None,
    Setting(
        f"The runtime or library that loads the folder: {_LISTED}. Cuts that it cannot express are refused, targets are"
        " met within those that it can, and its configuration is updated.",
        metavar="RUNTIME",
        section=CHANGES,
        also="for client target",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Storing:
    """The storage format of models that are written."""

    SECTION: ClassVar[str] = OUTPUT

    external_data: Annotated[
        Beside,
        Setting(
            "Keep weights in a file beside the model: as the original does, always or never.",
            rules=(excludes("dry_run"),),
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """The place where the model is written."""

    SECTION: ClassVar[str] = OUTPUT

    output: Output = None
    in_place: Annotated[
        bool,
        Setting(
            "Replace MODEL itself, a file or a folder; the original is kept beside it, as MODEL.onnx.bak or as"
            " {backup}.",
            rules=(excludes("output"),),
        ),
    ] = False
    backup: Annotated[
        Path | None,
        Setting(
            "Where {in_place} keeps the original; a file there must be the model, byte for byte.",
            metavar="FILE",
            creates="*",
            rules=(requires("in_place"),),
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Target(Storing, Destination):
    """The place where the model is written, and how."""


@dataclass(frozen=True, kw_only=True)
class Checking:
    """Validation that is required before a model is written."""

    SECTION: ClassVar[str] = OUTPUT

    validate: Annotated[
        bool,
        Setting(
            "Do not compare with the masked reference (noted in the metadata).",
            flags="--no-validate",
            rules=(excludes("dry_run"),),
        ),
    ] = True
    accept_inconclusive: AcceptInconclusive = False


@dataclass(frozen=True, kw_only=True)
class Deploying:
    """The runtime that the result is for."""

    SECTION: ClassVar[str] = CHANGES

    runtime: Runtime = None
    data_name: Annotated[
        str | None,
        Setting(
            'Name of the file with weights beside OUT; "{}" is the name of the model ("{}_data", "{}.data") [default:'
            " by content, in a folder as it was].",
            metavar="NAME",
            rules=(excludes("dry_run"),),
            section=OUTPUT,
        ),
    ] = None
    exclude: Annotated[
        tuple[Text, ...],
        Setting(
            "Name of a model of the folder that is left out of OUT, such as a quantized copy that cannot be cut, or a"
            " pattern; can be repeated. The report has the command that makes it again.",
            metavar="FILE",
            section=OUTPUT,
        ),
    ] = ()
    follow_links: FollowLinks = False
