"""The answer to whether a target is captured, and why not: a sentence, topics, and what mends it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Standing(StrEnum):
    """How one topic stands. `DOUBT` may matter and is no reason to say that the target isn't captured."""

    OK = "ok"
    NOT = "not"
    DOUBT = "doubt"
    NOTE = "-"


class Grade(StrEnum):
    """What a topic that isn't as wanted means for the whole."""

    ALL = "is not captured"
    SOME = "is not wholly captured"
    NONE = "is captured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One thing that decides whether a target is captured. `said` is what was seen, `more` further lines of it.

    `cause` is the part of a sentence that names what is wrong, empty where nothing is; `mend` says what helps, and
    `command` is a line that does, ready to paste. `facts` are the same for programs.
    """

    name: str
    standing: Standing
    said: str
    more: tuple[str, ...] = ()
    cause: str = ""
    grade: Grade = Grade.ALL
    mend: str = ""
    command: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Return it as JSON can hold it."""
        return {
            "topic": self.name,
            "standing": "note" if self.standing is Standing.NOTE else str(self.standing),
            "said": self.said,
            "more": list(self.more),
            "cause": self.cause,
            "mend": self.mend,
            "command": self.command,
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Whether a target is captured, wholly; the answer in one sentence, what it rests on, and what to do."""

    target: str
    netns: str
    captured: bool
    answer: str
    topics: tuple[Topic, ...]
    mend: str
    command: str = ""

    def document(self) -> dict[str, object]:
        """Return it as JSON can hold it."""
        return {
            "target": self.target,
            "netns": self.netns,
            "captured": self.captured,
            "answer": self.answer,
            "topics": [each.document() for each in self.topics],
            "mend": self.mend,
            "command": self.command,
        }


NOTHING = "nothing to do"


def explanation(target: str, netns: str, topics: tuple[Topic, ...]) -> Explanation:
    """Return the answer that topics come to: the first that is wrong names the cause, the others are counted."""
    wrong = [each for each in topics if each.standing is Standing.NOT]
    doubtful = [each for each in topics if each.standing is Standing.DOUBT]
    if wrong:
        grade = next((grade for grade in Grade if any(each.grade is grade for each in wrong)), Grade.ALL)
        first = next(each for each in wrong if each.grade is grade)
        others = [each.name for each in wrong if each is not first]
        also = f" (and not as wanted: {', '.join(others)})" if others else ""
        answer, chosen = f"{target} {grade}: {first.cause or first.said}{also}.", first
    elif doubtful:
        answer, chosen = f"{target} is captured, but {doubtful[0].cause or doubtful[0].said}.", doubtful[0]
    else:
        return Explanation(
            target=target, netns=netns, captured=True, answer=f"{target} is captured.", topics=topics, mend=NOTHING
        )
    return Explanation(
        target=target,
        netns=netns,
        captured=not wrong,
        answer=answer,
        topics=topics,
        mend=chosen.mend or NOTHING,
        command=chosen.command,
    )
