"""Explanations of targets that nobody can look into: a pod without a namespace, a namespace that isn't there."""

from agent.errors import NamespaceMissing, WeirError
from agent.explain.explanation import Explanation, Grade, Standing, Topic, explanation
from agent.explain.facts import Word
from agent.targets import Target


def waiting(word: Word) -> Explanation:
    """Return what is known of a pod that has no namespace here yet, which is what the daemon says."""
    name = word.name
    wanted = Topic(name="wanted", standing=Standing.NOTE, said=word.wanted, more=word.notes)
    waits = Topic(
        name="daemon", standing=Standing.NOT, said=word.waits, cause=word.waits, grade=Grade.ALL, mend=word.mend
    )
    return explanation(name, "", (wanted, waits))


def failed(target: Target, word: Word, error: WeirError) -> Explanation:
    """Return what is known of a target whose namespace can't be looked at."""
    said = str(error).partition("\n")[0]
    wanted = Topic(name="wanted", standing=Standing.NOTE, said=word.wanted, more=word.notes)
    gone = isinstance(error, NamespaceMissing)
    mend = error.hint or ("make the namespace, or take the target out of the file" if gone else "")
    namespace = Topic(name="namespace", standing=Standing.NOT, said=said, cause=said, grade=Grade.ALL, mend=mend)
    return explanation(target.name, target.netns, (wanted, namespace))
