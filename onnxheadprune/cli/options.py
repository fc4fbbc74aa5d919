"""Commands of click, made from functions whose parameters are settings or groups of settings."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, get_origin

import click
from click.core import ParameterSource

from onnxheadprune.cli.outcome import warn_if_random
from onnxheadprune.cli.values import SettingOption, Value, prepared
from onnxheadprune.settings.setting import (
    NAMED,
    SECTIONS,
    Declared,
    declared,
    first_broken,
    parameters,
    rules_of,
)
from onnxheadprune.settings.words import flag_of, meant
from onnxheadprune.settings.writing import Loudness, Replacing

Work = Callable[..., int]


def _print_all(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    """Print all that is known of a command, and end it."""
    if asked and not context.resilient_parsing:
        from onnxheadprune.cli.guides import write_all

        formatter = context.make_formatter()
        write_all(context.command, context, formatter)
        click.echo(formatter.getvalue().rstrip("\n"), color=context.color)
        context.exit()


HELP_ALL = click.Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_all,
    help="Show all options and exit.",
)


class DerivedCommand(click.Command):
    """A command whose options are settings: it refuses those without effect, and those that are given twice."""

    def __init__(
        self,
        name: str,
        *,
        settings: Mapping[str, Declared],
        groups: Collection[type[Any]],
        makes: tuple[str, str] | None,
        **more: Any,
    ) -> None:
        """Take what `click.Command` takes, and more."""
        what, of = makes or ("pruned", "model")
        params = [*(_parameter_of(item, f"{of.upper()}.{what}") for item in settings.values()), HELP_ALL]
        super().__init__(name, params=params, **more)
        self.settings = settings
        self.sections = {name: item.section for name, item in settings.items()}
        self.rules, self.makes = rules_of(settings, groups), makes
        self.implies = [name for group in groups for name in getattr(group, "IMPLIES", "").split()]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what most calls need."""
        from onnxheadprune.cli.guides import write_brief

        write_brief(self, ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write all options, in sections where there are many."""
        rows: dict[str, list[tuple[str, str]]] = {}
        first = ("data", "data_format")  # what the other inputs are about
        for option in sorted(self.get_params(ctx), key=lambda item: item.name not in first):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                rows.setdefault(self.sections.get(option.name or "", SECTIONS[-1]), []).append(record)
        from onnxheadprune.cli.guides import write_sections

        write_sections(formatter, rows)

    def get_short_help_str(self, limit: int = 45) -> str:
        """A line on the command."""
        from onnxheadprune.cli.guides import COMMANDS

        return COMMANDS[self.name or ""].short

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line and check the rules."""
        typed = list(args)
        if ctx.resilient_parsing:
            # A shell asks what could come next: the line is not complete, so no rule holds yet.
            return super().parse_args(ctx, args)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise self._renamed(error) or error from None
        _, _, order = self.make_parser(ctx).parse_args(typed)
        for parameter, times in Counter(order).items():
            if isinstance(parameter, click.Option) and times > 1 and not _may_repeat(parameter):
                raise click.UsageError(f"{parameter.opts[-1]} is given more than once", ctx)
        given = _given(ctx) | dict.fromkeys(self.implies, True)

        def spell(name: str, value: str) -> str | None:
            """An option as it is typed; a switch that is off by its negative form."""
            value = value or ("False" if given.get(name) is False else "")
            return flag_of(self.settings[name], value) if name in self.settings else None

        sentence = first_broken(self.rules, given, spell, {*self.settings, *self.implies})
        if sentence is not None:
            raise click.UsageError(sentence, ctx)
        if self.makes is not None:
            _complete(ctx.params, *self.makes)
        return rest

    def _renamed(self, error: click.NoSuchOption) -> click.UsageError | None:
        """The error for an option that other programs, or earlier versions, call otherwise; None for others."""
        name = error.option_name.lstrip("-")
        found = next(
            (item.name for item in self.settings.values() if name in item.setting.also.split()), None
        )
        written = {name: flag_of(item) for name, item in self.settings.items()}
        instead = [] if found is None else [written[found]]
        instead += [f"{written[setting]} {word}" for setting, word in meant(name, self.settings)]
        if not instead:
            return None
        use = " or ".join(instead)
        return click.UsageError(f"there is no option {error.option_name}; use {use}", error.ctx)


def command(*, makes: tuple[str, str] | None = None) -> Callable[[Work], DerivedCommand]:
    """Make a command from a function; its docstring is the help.

    Args:
        makes: what it makes, and the setting that names what it makes it of: ("pruned", "model") writes
            MODEL.pruned.onnx where no output is named.
    """

    def decorate(work: Work) -> DerivedCommand:
        taken = parameters(work)
        settings: dict[str, Declared] = {}
        for key, item in taken.items():
            settings |= {key: item} if isinstance(item, Declared) else declared(item)
        if any(item.setting.creates for item in settings.values()):
            settings |= declared(Replacing)
        settings |= declared(Loudness)

        @functools.wraps(work)
        def callback(**values: object) -> int:
            given = {
                key: values[key]
                if isinstance(item, Declared)
                else item(**{name: values[name] for name in declared(item)})
                for key, item in taken.items()
            }
            with prepared(click.get_current_context()):
                code = work(**given)
            warn_if_random(values.get("data"))
            return code

        return DerivedCommand(
            work.__name__,
            callback=callback,
            settings=settings,
            help=inspect.cleandoc(work.__doc__ or ""),
            groups=[item for item in taken.values() if isinstance(item, type)],
            makes=makes,
        )

    return decorate


def _parameter_of(item: Declared, made: str) -> click.Parameter:
    setting, is_list = item.setting, get_origin(item.kind) is tuple and item.setting.parse is None
    named: dict[str, Any] = {"type": Value(item), "metavar": setting.metavar, "required": item.required}
    if setting.argument:
        return click.Argument([item.name], nargs=-1 if is_list else 1, **named)
    if not item.required:
        named["default"] = (
            ",".join(item.default)
            if isinstance(item.default, tuple) and item.default and setting.parse
            else item.default
        )
    if get_origin(item.kind) is Mapping:
        named |= {"multiple": True, "default": None, "callback": _merged}
    elif is_list:
        named["multiple"] = True
    flag = f"--{item.name.replace('_', '-')}"
    flags = setting.flags.split() or [flag]
    if item.kind is bool:
        only_off = flags[0].startswith("--no-")
        is_pair = "/" in flags[0] or (item.default is not False and not only_off)
        named |= {"is_flag": True, "type": None} | ({"flag_value": False} if only_off else {})
        flags = [f"{flag}/--no-{flag[2:]}"] if is_pair and "/" not in flags[0] else flags
    if not item.required and (setting.parse is None or isinstance(item.default, tuple)):
        nothing = item.default is None or item.default is False or item.default == ()
        named["show_default"] = not (nothing or flags[0].startswith("--no-"))
    return SettingOption(
        [*flags, item.name], help=_worded(setting.help).replace("MODEL.pruned", made), **named
    )


def _merged(_context: click.Context, _option: click.Parameter, given: Iterable[Mapping[str, int]]) -> object:
    return {name: value for item in given for name, value in item.items()}


def _worded(text: str) -> str:
    return NAMED.sub(lambda match: f"--{match[1].replace('_', '-')}", text).replace("`", "")


def _complete(values: dict[str, Any], what: str, of: str) -> None:
    """Name the output that nobody named."""
    if values["output"] is None and not values.get("dry_run") and not values.get("in_place"):
        values["output"] = _output_of(values[of], what)


def _output_of(model: Path, what: str) -> Path:
    """The output beside a model or a folder: MODEL.pruned.onnx, FOLDER.pruned."""
    place = model if model.name else model.resolve()
    name = place.name.removesuffix(".onnx")
    return place.with_name(f"{name}.{what}" if place.is_dir() else f"{name}.{what}.onnx")


def _given(context: click.Context) -> dict[str, object]:
    """Values of the parameters that somebody typed, not of defaults."""
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT and value != ()
    }


def _may_repeat(option: click.Option) -> bool:
    """Return whether giving it again changes nothing: switches that can only be switched on, and lists."""
    return option.multiple or (option.is_flag and not option.secondary_opts)
