"""One line of a save, word by word."""

import re
from dataclasses import dataclass

from rulesets.vocabulary import ModelError

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"(?=\s|\Z)|[^\s"]+(?=\s|\Z)|(\S)')
_ESCAPED = re.compile(r"\\(.)")
# What iptables prints without quotes (libxtables, xtables_save_string).
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
# Options whose value may look like an option: what anybody likes, and without quotes where it has no blanks.
FREE_TEXT = frozenset(("--comment", "--log-prefix", "--nflog-prefix", "--string", "--path"))
_TO_ESCAPE = re.compile(r"([\"'\\])")


@dataclass(frozen=True, slots=True)
class Word:
    """A word: as it was written, and what it says. What is quoted is never an option."""

    raw: str
    text: str
    quoted: bool

    @property
    def is_option(self) -> bool:
        """Tell whether the word names an option of a match or target: those are long."""
        return not self.quoted and self.text.startswith("--")


def split(line: str) -> list[Word]:
    """Return the words of a line; raises `ModelError` where a quote is left open."""
    if '"' not in line:
        return [Word(word, word, False) for word in line.split()]
    words = []
    for found in _WORD.finditer(line):
        raw = found[0]
        if found[1]:
            raise ModelError("a quote is left open, or stands inside a word")
        if raw[0] == '"':
            words.append(Word(raw, _ESCAPED.sub(r"\1", raw[1:-1]), True))
        else:
            words.append(Word(raw, raw, False))
    return words


def quoted(text: str) -> str:
    """Return a text as iptables prints it."""
    if _PLAIN.fullmatch(text):
        return text
    escaped = _TO_ESCAPE.sub(r"\\\1", text)
    return f'"{escaped}"'


def raw(words: list[Word]) -> str:
    """Return words as they were written."""
    return " ".join([word.raw for word in words])
