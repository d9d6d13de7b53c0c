"""`weir verify --probe`: the connections that prove capture, made and told."""

from typing import TYPE_CHECKING

from agent.cli.failing import clean
from agent.errors import WeirError

if TYPE_CHECKING:
    from agent.explain.probe import Proof
    from agent.targets import Target


def proofs(chosen: "tuple[Target, ...]") -> "dict[str, tuple[Proof, ...]]":
    """Return what connections of each target showed, by its name; nothing of one that nobody could look into."""
    from agent.cli.kernel import with_handles
    from agent.explain.probe import probe

    found = with_handles(chosen, probe)
    return {target.name: each for target, each in found if not isinstance(each, WeirError)}


def show(found: "tuple[Proof, ...]") -> None:
    """Print what connections showed, each with what was seen of it."""
    marks = {True: "ok ", False: "not", None: "?  "}
    for each in found:
        print(clean(f"  {marks[each.captured]} probe     {each}").replace("\n", " "))
        for seen in each.seen:
            print(clean(f"                  {seen}").replace("\n", " "))


def documents(found: "dict[str, tuple[Proof, ...]]") -> list[dict[str, object]]:
    """Return it as JSON can hold it."""
    return [{"target": name, **each.document()} for name, some in found.items() for each in some]


def refuted(found: "dict[str, tuple[Proof, ...]]") -> bool:
    """Tell whether a connection was seen not to be captured."""
    return any(each.captured is False for some in found.values() for each in some)


def silent(found: "dict[str, tuple[Proof, ...]]") -> list[str]:
    """Return the targets of which no connection proved anything."""
    return [name for name, some in found.items() if all(each.captured is None for each in some)]
