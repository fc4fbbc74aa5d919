"""What hears how far work has come, in words that name the part of it."""

from __future__ import annotations

from onnxheadprune.runtime.progress import Note, prefixed


def test_messages_of_a_part_of_the_work_stay_messages() -> None:
    """Of a step of a job, or of a file of a folder: a message that counted as a stage would end the one before it."""
    heard: list[str] = []
    tell = prefixed(lambda what, done, of: heard.append(what), "step 1 of 2, prune: ", str.upper)
    tell(Note("a message"), 0, 0)
    tell("reading", 1, 2)
    assert heard == ["step 1 of 2, prune: A MESSAGE", "step 1 of 2, prune: READING"]
    assert [isinstance(what, Note) for what in heard] == [True, False]
