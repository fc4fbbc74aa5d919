"""A setting is declared once: what is declared here shows up wherever settings are used."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, get_args, get_origin

import click
import pytest
from pydantic import TypeAdapter, ValidationError

from onnxheadprune import UsageError
from onnxheadprune.api.keywords import Call, keywords_of
from onnxheadprune.choosing.targets import PruningTarget
from onnxheadprune.cli import group
from onnxheadprune.cli.deriving import command
from onnxheadprune.deploying.jobs.keys import SECTIONS, JobKeys
from onnxheadprune.edit import records
from onnxheadprune.fusion.result import FuseMode
from onnxheadprune.integrations.cutting import GROUPS, PARAMETERS, parameters, settings_of
from onnxheadprune.model.storage import layout
from onnxheadprune.settings.cutting import Cut, Fuse
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.measuring import To
from onnxheadprune.settings.setting import (
    SELECTION,
    Bounds,
    Factors,
    Setting,
    Shares,
    check,
    declared,
    requires,
)
from onnxheadprune.settings.words import table
from onnxheadprune.settings.writing import Beside
from onnxheadprune.workflow.sweep import parse_sweep
from tests.conftest import Command

ALL = [
    *(item for command in group.commands.values() for item in command.settings.values()),
    *(item for section in SECTIONS.values() for item in declared(section).values()),
]
"""Every setting of commands and jobs."""
HELP = "How many toys to keep, with {colour}."


@dataclass(frozen=True, kw_only=True)
class Toys:
    """Settings that the product does not have."""

    SECTION: ClassVar[str] = SELECTION

    toys: Annotated[
        Annotated[int, Bounds(ge=2, lt=9)] | None, Setting(HELP, metavar="N", rules=(requires("colour"),))
    ] = None
    colour: Annotated[str | None, Setting("Their colour.")] = None


@command()
def play(toys: Toys, name: Annotated[str, Setting("A name.")] = "mine") -> int:
    """Play."""
    return (toys.toys or 0) + len(name)


def played(*words: str) -> int:
    with play.make_context("play", list(words)) as context:
        return int(play.invoke(context))


def test_it_is_an_option() -> None:
    assert played() == 4 and played("--toys", "3", "--colour", "red", "--name", "a") == 4
    text = " ".join(play.get_help(click.Context(play)).split())
    assert "--toys N How many toys to keep, with --colour. [2<=x<9]" in text
    for words, sentence in {
        ("--toys", "9", "--colour", "x"): "9 is not in the range 2<=x<9",
        ("--toys", "3"): "--toys requires --colour",
        ("--colour", "a", "--colour", "b"): "--colour is given more than once",
    }.items():
        with pytest.raises(click.UsageError) as caught:
            played(*words)
        assert sentence in caught.value.format_message()


def test_it_is_a_key_of_a_job_and_in_the_schema() -> None:
    adapter = TypeAdapter(Toys)
    assert adapter.validate_json('{"toys": 3}') == Toys(toys=3)
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        adapter.validate_json('{"toys": 1}')
    (key, _) = adapter.json_schema()["properties"].values()
    assert key["description"] == "How many toys to keep, with colour."
    assert {"type": "integer", "minimum": 2, "exclusiveMaximum": 9} in key["anyOf"]


def test_it_is_in_the_table_of_the_documentation() -> None:
    assert (
        "| `toys` | whole number at least 2 and less than 9 |  | How many toys to keep, with `colour`. |"
        in table(Toys)
    )


def test_it_is_a_keyword_of_python() -> None:
    call = Call("play", Toys)

    @keywords_of(call)
    def play(other: int = 0, **settings: Any) -> None:
        """Play.

        Args:
            other: of its own.
            {settings}
        """

    text = inspect.getdoc(play)
    assert text is not None and "{settings}" not in text and "toys" in inspect.signature(play).parameters
    assert text.index("toys: How many toys to keep, with `colour`.") > text.index("other: of its own.")
    assert call.read({"toys": 3, "colour": "red"}) == Toys(toys=3, colour="red")
    for wrong, sentence in (({"toys": 3}, "toys= requires colour="), ({"toys": 9}, "less than 9, not 9")):
        with pytest.raises(UsageError, match=sentence):
            call.read(wrong)


def test_it_is_a_parameter_of_olive() -> None:
    found = parameters(Cut, Toys)
    assert found["toys"] == declared(Toys)["toys"] and set(found) == {*declared(Cut), "toys", "colour"}
    assert set(PARAMETERS) > {*declared(Cut), *declared(Running)}


def test_numbers_have_one_place_for_their_bounds() -> None:
    check(Toys, toys=2)
    with pytest.raises(UsageError, match="toys must be at least 2 and less than 9, not 9"):
        check(Toys, toys=9)
    with pytest.raises(UsageError, match="target_speedup must be greater than 1 and less than 100, not 150"):
        PruningTarget(target_speedup=150)
    schema = json.dumps(TypeAdapter(JobKeys).json_schema())
    assert (
        '"exclusiveMaximum": 100.0, "exclusiveMinimum": 1.0' in schema or '"exclusiveMaximum": 100' in schema
    )


@pytest.mark.parametrize("kind", [JobKeys, *SECTIONS.values()], ids=lambda kind: kind.__name__)
def test_every_field_is_a_declaration(kind: type[Any]) -> None:
    assert [item.name for item in fields(kind)] == list(declared(kind))
    assert all(item.setting.help.endswith((".", "].")) for item in declared(kind).values())


def test_options_and_keys_of_the_same_name_are_the_same() -> None:
    options = {item.name: item for item in group.commands["prune"].params if isinstance(item, click.Option)}
    keys = declared(SECTIONS["prune"])
    assert set(keys) <= set(options) and set(declared(Cut)) <= set(keys)


def test_rules_name_settings_that_there_are() -> None:
    known = {name for item in group.commands.values() for name in (param.name for param in item.params)}
    for section, kind in {"": JobKeys, **SECTIONS}.items():
        known |= {*declared(kind), *(f"{section}.{name}" for name in declared(kind))}
    named = {
        word.partition("=")[0]
        for kind in (JobKeys, *SECTIONS.values())
        for item in declared(kind).values()
        for rule in item.setting.rules
        for word in f"{rule.needs} {rule.against} {rule.unless}".split()
    }
    assert named <= known


@pytest.mark.parametrize(
    ("setting", "kind"), [(Fuse, FuseMode), (To, records.To), (Beside, layout.ExternalData)], ids=str
)
def test_words_of_a_setting_are_those_of_the_work(setting: object, kind: object) -> None:
    """Rooms below cannot be asked by the declarations, which nothing heavy may load."""
    assert get_args(setting) == get_args(kind)


@pytest.mark.parametrize("name", sorted(group.commands))
def test_words_of_settings_are_no_options_but_known(name: str, command: Command) -> None:
    """`quantize --int4` says `--to int4`, and `score --taylor` says `--method taylor`."""
    options = {option for item in group.commands[name].params for option in item.opts}
    for item in group.commands[name].settings.values():
        for word in () if get_origin(item.kind) is Mapping else item.words:
            if f"--{word}" in options or any(word in other.setting.also.split() for other in ALL):
                continue
            told = command(name, f"--{word}")
            flag = f"--{item.name.replace('_', '-')}"
            assert told.exit_code == 2 and f"{flag} {word}" in told.stderr, (flag, word, told.stderr)


def test_every_factor_may_have_an_x() -> None:
    """Whatever is a factor: "2x" is 2 on the command line, in Python and in jobs."""
    found = {item.name for item in ALL if "speedup" in item.name}
    assert found and all(isinstance(item.bounds, Factors) for item in ALL if "speedup" in item.name)
    for item in (item for item in ALL if isinstance(item.bounds, Factors)):
        read = TypeAdapter(Annotated[float, item.bounds])
        assert (
            item.read("2x") == item.read("2") == item.read(2) == read.validate_python("2x", strict=True) == 2
        )
        for wrong in ("x", "2xx", "2%", "two"):
            with pytest.raises(UsageError):
                item.read(wrong)


def test_every_share_may_be_in_percent() -> None:
    """On the command line, in jobs and for other tools alike: 50% is 0.5 wherever a share is declared."""
    groups = [*SECTIONS.values(), *GROUPS]
    found = {
        item.name: item.bounds for group in groups for item in declared(group).values() if item.kind is float
    }
    shares = {name: bounds for name, bounds in found.items() if isinstance(bounds, Shares)}
    # What lies between 0 and 1 is a share.
    assert {name for name, bounds in found.items() if 1 in (bounds.le, bounds.lt)} <= set(shares)
    for name, bounds in shares.items():
        read = TypeAdapter(Annotated[float, bounds])
        assert read.validate_python("50%", strict=True) == 0.5 == settings_of({"ratio": "50%"}).cut.ratio, (
            name
        )
        for wrong in ("50", "%", "-5%", "half"):
            with pytest.raises(ValidationError):
                read.validate_python(wrong, strict=True)
    option = next(item for item in group.commands["prune"].params if item.name == "ratio")
    assert option.type.convert("50%", option, None) == 0.5 == option.type.convert("0.5", option, None)
    for wrong in ("100%", "0%", "half", "50 %%"):
        with pytest.raises(click.UsageError):
            option.type.convert(wrong, option, None)
    assert parse_sweep("0:50%:25%") == (0, 0.25, 0.5)
