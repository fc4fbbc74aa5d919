"""A setting is declared once: what is declared here shows up wherever settings are used."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import click
import pytest

from onnxheadprune import UsageError
from onnxheadprune.api.keywords import Call, keywords_of
from onnxheadprune.cli.options import command
from onnxheadprune.cli.program import group
from onnxheadprune.deploying.jobs.keys import SECTIONS, JobKeys
from onnxheadprune.integrations.cutting import PARAMETERS, parameters
from onnxheadprune.settings.cutting import Cut
from onnxheadprune.settings.inputs import Running
from onnxheadprune.settings.setting import (
    SELECTION,
    Bounds,
    Factors,
    Setting,
    Shares,
    WithUnit,
    declared,
    requires,
)

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
        ("--toys", "9", "--colour", "x"): "--toys must be at least 2 and less than 9, not 9",
        ("--toys", "3"): "--toys requires --colour",
        ("--colour", "a", "--colour", "b"): "--colour is given more than once",
    }.items():
        with pytest.raises(click.UsageError) as caught:
            played(*words)
        assert sentence in caught.value.format_message()


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


def test_every_factor_may_have_an_x_and_every_share_may_be_in_percent() -> None:
    """Whoever reads it: 50% is 0.5 and 2x is 2 wherever a share or a factor is declared."""
    numbers = [item for item in (*ALL, *PARAMETERS.values()) if item.kind is float]
    assert all(isinstance(item.bounds, Factors) for item in numbers if "speedup" in item.name)
    # What lies between 0 and 1 is a share.
    assert all(isinstance(item.bounds, Shares) for item in numbers if 1 in (item.bounds.le, item.bounds.lt))
    for item in numbers:
        if isinstance(item.bounds, WithUnit):
            text, number = ("50%", 0.5) if isinstance(item.bounds, Shares) else ("2x", 2)
            assert (
                item.read(text)
                == item.of_text(text)
                == item.read(number)
                == item.of_text(str(number))
                == number
            )
            for wrong in ("x", "%", "-5%", "half", "50 %%", "2xx", True, None, [0.5]):
                with pytest.raises(UsageError, match=item.name):
                    item.read(wrong)
