"""Which options belong together: an option that would do nothing is refused before any work.

Each command has a table of laws, and one place reads it. click knows which options were typed and which are defaults;
libraries of constraints for it (cloup) take a default for given, so they cannot say that `--floor 1` beside `--heads`
is ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from onnxheadprune.cli.sections import write_sections

WISH = "ratio keep target_speedup max_drift"
DATA = "data text images random_data"
SIZES = "batch seq past dims repeats time_budget threads"


@dataclass(frozen=True)
class Law:
    """When some options have an effect.

    All fields are lists of words with spaces between them. A word is a parameter's name, or `name=value` for a
    parameter with that value.

    Attributes:
        options: what the law is about.
        needs: one of these must be given too.
        against: with any of these the options would do nothing,
        unless: except where one of these is given as well.
    """

    options: str
    needs: str = ""
    against: str = ""
    unless: str = ""

    def broken(self, given: Mapping[str, object], spelled: Mapping[str, str]) -> str | None:
        """A sentence about the first option that would do nothing, None if there is none.

        Args:
            given: values of the parameters that were typed.
            spelled: how parameters are written on the command line.
        """
        option = next((word for word in self.options.split() if _holds(word, given)), None)
        if option is None:
            return None
        name, needs, unless = _spell(option, spelled), self.needs.split(), self.unless.split()
        if needs and not any(_holds(word, given) for word in needs):
            return f"{name} would do nothing: it can only go with {_listed(needs, spelled)}"
        obstacle = next((word for word in self.against.split() if _holds(word, given)), None)
        if obstacle is None or any(_holds(word, given) for word in unless):
            return None
        but = f", unless {_listed(unless, spelled)} is given too" if unless else ""
        return f"{name} would do nothing beside {_spell(obstacle, spelled)}{but}; leave one of them out"


def _choosing(data: str, choices: str) -> tuple[Law, ...]:
    """How units are chosen and what is left is refitted: with options that give data, and that ask for a choice."""
    return (
        Law("scores method protect floor multiple_of units uniform", needs=choices),
        Law("scores", against="method"),
        Law("method", needs=f"{data} method=weight"),
        Law("units", needs=data),
        Law("neurons_multiple_of", needs="units"),
        Law("uniform", against="keep"),
        Law("compensate=True", needs=f"heads neurons layers {choices}"),
        Law("compensate=False", needs=f"{choices} recover"),
        Law("compensate=False", needs=data),
        Law("recover", needs=f"heads neurons layers {choices}"),
        Law("recover", needs=data),
    )


_SAMPLES = (
    Law("max_length text_field target_field max_samples", needs="text"),
    Law("image_size image_mean image_std", needs="images"),
)
"""How data of some kind is read."""
_SHAPING = (
    Law("keep_cache_shape allow_io_change", needs=f"heads neurons layers {WISH}"),
    # Attention goes as a whole where it is named so, or where a choice may take sublayers, or all heads of a site.
    Law("renumber_cache", needs=f"heads layers {WISH}"),
)
"""What a cut does to inputs and outputs."""
PRUNE = (
    Law("per_layer_config", against="keep_cache_shape"),
    Law("no_validate accept_inconclusive external_data data_name", against="dry_run"),
    Law("accept_inconclusive", against="no_validate"),
    *_choosing(DATA, WISH),
    Law("recover", against="dry_run"),
    Law("resume", needs="recover"),
    # The state of one training is kept, beside the one output.
    Law("resume", against="max_drift"),
    # A drift is measured where something runs: in a choice on data, and in every validation.
    Law("drift", against="dry_run no_validate", unless=DATA),
    Law("heatmap", needs=WISH),
    # What models are run on, and where.
    *_SAMPLES,
    Law(DATA, against="dry_run", unless=f"{WISH} compensate=True"),
    Law(DATA, against="no_validate", unless=f"{WISH} compensate=True recover fuse=auto"),
    Law("seed", against="dry_run", unless="random_data recover"),
    Law("seed", against="no_validate", unless="random_data recover fuse=auto"),
    *_SHAPING,
)
SWEEP = (
    Law("jobs", against="dask", unless="dask=local"),
    Law("x", needs="output"),
    Law("scores", against="method"),
    Law("method", needs=f"{DATA} method=weight"),
    Law("units", needs=DATA),
    Law("neurons_multiple_of", needs="units"),
    Law("compensate=False", needs=DATA),
    *_SAMPLES,
    Law("recover", needs=DATA),
    Law("seed", needs="random_data recover"),
)
BATCH = (
    Law("jobs", against="dask", unless="dask=local"),
    Law("accept_inconclusive", against="no_validate"),
    *_choosing("data", WISH),
    Law("drift", against="no_validate", unless="data"),
    Law("data", against="no_validate", unless=f"{WISH} compensate=True recover fuse=auto"),
    Law("seed", against="no_validate", unless="recover fuse=auto"),
    *_SHAPING,
)
FUSE = (
    Law("no_validate accept_inconclusive external_data", against="dry_run"),
    Law("accept_inconclusive", against="no_validate"),
    Law("data seed", against="dry_run"),
    Law("data seed", against="no_validate", unless="mode=auto"),
)
QUANTIZE = (
    Law("per_channel reduced", against="to=int4"),
    Law("block_size", needs="to=int4"),
    # Nothing runs but where drift is measured.
    Law("drift provider", needs=DATA),
    Law("seed", needs="random_data"),
    Law("max_length", needs="text"),
    Law("image_size image_mean image_std", needs="images"),
)
COMBINE = (
    Law("per_channel reduced", against="to=int4"),
    Law("block_size", needs="to=int4"),
    Law("time_budget", against="repeats"),
    Law("external_data", needs="output"),
    Law("max_length", needs="text"),
    Law("image_size image_mean image_std", needs="images"),
)
RECOVER = (
    Law("accept_inconclusive", against="no_validate"),
    *_SAMPLES,
)
SCORE = (
    Law("drift jobs dask", needs="method=ablation"),
    Law("jobs", against="dask", unless="dask=local"),
    Law(DATA, against="method=weight"),
    Law("seed", needs="random_data"),
    *_SAMPLES,
)
BENCH = (
    Law("min_speedup", needs="pruned"),
    Law("time_budget", against="repeats"),
)
VALIDATE = (
    Law(SIZES, needs="min_speedup"),
    Law("time_budget", against="repeats"),
    Law("metric", needs="data"),
)
RUN = (Law("job settings junit as_json", against="schema"),)
_WISHES = "prune.ratio prune.keep prune.target_speedup prune.max_drift"
_VALIDATED = "gate.max_drift gate.min_accuracy gate.max_accuracy_drop"
_METRIC = "gate.min_metric gate.max_metric gate.max_metric_drop"
_MADE = "gate.min_speedup gate.max_file_bytes gate.max_size_ratio gate.max_operations_ratio"
JOB = (
    Law("data", needs="data.path data.text data.images data.random=True"),
    Law("data.path", against="data.text data.images data.random=True"),
    Law("data.text", against="data.images data.random=True"),
    Law("data.images", against="data.random=True"),
    Law("data.tokenizer data.max_length", needs="data.text"),
    Law("data.text_field data.target_field data.max_samples", needs="data.text"),
    Law("data.image_size data.image_mean data.image_std", needs="data.images"),
    Law("score", needs=_WISHES),
    Law("score", against="prune.scores"),
    Law("score.drift score.jobs score.dask", needs="score.method=ablation"),
    Law("score.jobs", against="score.dask", unless="score.dask=local"),
    Law("prune", needs=f"prune.heads prune.neurons prune.layers prune.exit {_WISHES}"),
    Law("prune.heads prune.neurons prune.layers", against=_WISHES),
    Law("prune.ratio", against="prune.keep prune.target_speedup prune.max_drift"),
    Law("prune.keep", against="prune.target_speedup prune.max_drift"),
    Law("prune.target_speedup", against="prune.max_drift"),
    Law("prune.scores prune.protect prune.floor prune.multiple_of prune.units prune.uniform", needs=_WISHES),
    Law("prune.neurons_multiple_of", needs="prune.units"),
    Law("prune.uniform", against="prune.keep"),
    Law("prune.compensate=False", needs=_WISHES),
    Law("prune.compensate", needs="data"),
    Law("recover", needs="data"),
    Law("quantize.per_channel quantize.reduce_range", against="quantize.to=int4"),
    Law("quantize.block_size", needs="quantize.to=int4"),
    Law("quantize.to=int8-qdq", needs="data"),
    Law("validate.metric", needs="validate.data"),
    Law("bench.time_budget", against="bench.repeats"),
    Law("gate", needs=f"{_VALIDATED} {_METRIC} {_MADE}"),
    Law(_VALIDATED, needs="validate"),
    Law("gate.min_accuracy gate.max_accuracy_drop", needs="validate.data"),
    Law("gate.max_drift", against="quantize", unless="validate.data"),
    Law(_METRIC, needs="validate.metric"),
    Law("gate.min_speedup", needs="bench"),
)
"""Of the keys of a job; sections stand beside what is in them."""


class LawfulCommand(click.Command):
    """A command that refuses options that would do nothing, and options that are given twice."""

    def __init__(
        self, *args: Any, laws: Sequence[Law] = (), in_sections: bool = False, **settings: Any
    ) -> None:
        """Takes what `click.Command` takes, the laws of the options, and whether `--help` shows these in groups."""
        super().__init__(*args, **settings)
        self.laws = tuple(laws)
        self.in_sections = in_sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options for `--help`."""
        if self.in_sections:
            write_sections(self, ctx, formatter)
        else:
            super().format_options(ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the command line, then asks the laws.

        Raises:
            click.UsageError: if a law is broken.
        """
        typed = list(args)
        rest = super().parse_args(ctx, args)
        _, _, order = self.make_parser(ctx).parse_args(typed)
        for parameter, times in Counter(order).items():
            if isinstance(parameter, click.Option) and times > 1 and not _may_repeat(parameter):
                raise click.UsageError(f"{parameter.opts[-1]} is given {times} times; which one holds?", ctx)
        given = _given(ctx)
        spelled = {parameter.name or "": _word(parameter) for parameter in self.params}
        for law in self.laws:
            sentence = law.broken(given, spelled)
            if sentence is not None:
                raise click.UsageError(sentence, ctx)
        return rest


def unlawful(laws: Sequence[Law], given: Mapping[str, object]) -> str | None:
    """The first sentence about names that would do nothing, None if there is none; each is spelled as it is.

    Args:
        laws: what must hold.
        given: values by name.
    """
    words = " ".join(f"{law.options} {law.needs} {law.against} {law.unless}" for law in laws).split()
    spelled = {name: name for name in (word.partition("=")[0] for word in words)}
    sentences = (law.broken(given, spelled) for law in laws)
    return next((sentence for sentence in sentences if sentence is not None), None)


def _given(context: click.Context) -> dict[str, object]:
    """Values of the parameters that somebody typed; defaults are nobody's wish."""
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT and value != ()
    }


def _may_repeat(option: click.Option) -> bool:
    """Whether saying it again says the same: switches that can only be switched on, and lists."""
    return option.multiple or (option.is_flag and not option.secondary_opts)


def _word(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return (parameter.name or "").upper()


def _holds(word: str, given: Mapping[str, object]) -> bool:
    name, _, value = word.partition("=")
    return name in given and (not value or str(given[name]) == value)


def _spell(word: str, spelled: Mapping[str, str]) -> str:
    """The word as it is typed: "--fuse auto", "--no-compensate"."""
    name, _, value = word.partition("=")
    if value == "False":
        return spelled[name].replace("--", "--no-", 1)
    return spelled[name] if value in ("", "True") else f"{spelled[name]} {value}"


def _listed(words: Collection[str], spelled: Mapping[str, str]) -> str:
    *most, last = (_spell(word, spelled) for word in words)
    return f"{', '.join(most)} or {last}" if most else last
