"""When two endings are the same failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnxheadprune.workflow.reducing.ending import TIMEOUT, Ending, Failure, told, words

REFUSED = Ending(
    3, "RefusedError", "attn.3 (encoder.layer.3) cannot lose heads: Softmax -> /attn/p mixes them"
)


def test_names_and_numbers_do_not_count() -> None:
    other = replace(REFUSED, sentence="attn.0 (attention_0) cannot lose heads: Softmax -> v12 mixes them")
    assert Failure(REFUSED).is_shown_by(other)


@pytest.mark.parametrize(
    "other",
    [
        replace(REFUSED, exit_code=2),
        replace(REFUSED, kind="UsageError"),
        replace(
            REFUSED, sentence="attn.0 (attention_0) cannot lose heads: LayerNormalization -> v12 mixes them"
        ),
        replace(REFUSED, sentence="attn.0 (attention_0) cannot lose heads: Softmax -> v12 couples them"),
        replace(REFUSED, place="liveness/sweep.py:sweep"),
        Ending(0),
        Ending(TIMEOUT),
        Ending(-11),
    ],
)
def test_anything_else_counts(other: Ending) -> None:
    assert not Failure(REFUSED).is_shown_by(other)


def test_names_that_could_be_words_are_taken_out_of_both() -> None:
    told_with_names = replace(REFUSED, sentence="the input heads of mask is narrowed")
    anonymous = replace(REFUSED, sentence="the input v0 of v1 is narrowed")
    assert not Failure(told_with_names).is_shown_by(anonymous)
    assert Failure(told_with_names, frozenset({"heads", "mask"})).is_shown_by(anonymous)


def test_lists_may_be_shorter() -> None:
    assert words("nodes a1, b2 and 3 more are left (at x/y)") == words("nodes a1 are left (at v0)")


def test_reasons_of_near_misses_count() -> None:
    missed = Ending(
        3, sentence="no site", left_out=("no projection sums them up", "one map weighs all channels")
    )
    failure = Failure(missed)
    assert failure.is_shown_by(replace(missed, left_out=missed.left_out[:1]))
    assert not failure.is_shown_by(replace(missed, left_out=()))
    assert not failure.is_shown_by(replace(missed, left_out=("another reason",)))


def test_what_is_printed_counts_if_it_is_named() -> None:
    failure = Failure(Ending(0, output="1 gather is left"), saying="gather")
    assert failure.is_shown_by(Ending(0, output="2 gathers are left"))
    assert not failure.is_shown_by(Ending(0, output="nothing is left"))
    assert not failure.is_shown_by(Ending(3, output="2 gathers are left"))


def test_endings_are_told() -> None:
    assert told(REFUSED) == "exit code 3, RefusedError"
    assert told(Ending(-11)) == "crashes with signal 11"
    assert told(Ending(TIMEOUT)) == "takes longer than the limit"
