"""Who wants a target captured and what decided it, and what changed last behind Weir's back."""

from agent.explain.explanation import Grade, Standing, Topic
from agent.explain.facts import Facts

_MOST = 8


def eligibility(facts: Facts) -> Topic:
    """Return whether the target is to be captured, and what decided: labels, selectors, a file, the command line."""
    word = facts.word
    settings = dict(word.settings or {})
    told = ", ".join(f"{name} = {value!r}" for name, value in settings.items())
    values = {"wanted": facts.wanted, "decided": word.wanted, "notes": list(word.notes), "settings": settings}
    notes = (*word.notes, *((f"settings: {told}",) if told else ()))
    if facts.wanted:
        return Topic(name="wanted", standing=Standing.OK, said=word.wanted, more=notes, facts=values)
    return Topic(
        name="wanted",
        standing=Standing.NOT,
        said=word.wanted,
        more=notes,
        cause=f"it isn't to be: {word.wanted}",
        grade=Grade.ALL,
        mend=word.mend,
        facts=values,
    )


def change(facts: Facts) -> Topic:
    """Return what changed last behind Weir's back, and who did it."""
    drifts = facts.word.drifts
    if not facts.word.daemon:
        return Topic(name="last change", standing=Standing.NOTE, said="not known: no daemon watches it")
    if not drifts:
        return Topic(name="last change", standing=Standing.NOTE, said="none since the daemon began to watch")
    lines = [f"{each.kind}: {each.said}{f', by {each.culprit}' if each.culprit else ''}" for each in drifts]
    return Topic(
        name="last change",
        standing=Standing.NOTE,
        said=lines[-1],
        more=tuple(reversed(lines[-_MOST:-1])),
        facts={"drifts": [each.document() for each in drifts]},
    )
