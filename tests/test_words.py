"""Others' words in a log or on a terminal: one line, nothing that a terminal would obey."""

from hypothesis import given
from hypothesis import strategies as st

from agent.words import printable


def test_what_can_not_be_printed_is_seen_as_an_escape() -> None:
    assert printable("a\nb\x00c\u202ed\x1b[2J") == r"a\nb\x00c\u202ed\x1b[2J"
    assert printable("ztunnel é") == "ztunnel é"
    assert printable("") == ""


@given(st.text(st.characters()))
def test_any_words_are_one_printable_line(text: str) -> None:
    assert printable(text).isprintable()


def test_words_are_cut_to_what_can_be_read() -> None:
    assert printable("a" * 1000) == "a" * 1000
    assert printable("a" * 1001) == "a" * 1000 + "..."
    assert printable("\x1b" * 1_000_000) == (r"\x1b" * 250) + "..."
