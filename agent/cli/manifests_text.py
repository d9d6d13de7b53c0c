"""What would become of manifests' workloads, as text that nft can load, with everything but the rules as comments."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agent.cli.failing import clean
from agent.words import counted

if TYPE_CHECKING:
    from agent.sources.kubernetes.results import Difference, Result, Results

_MOST_NAMED = 5  # workloads in a heading, kinds in a summary


def states(found: "Results") -> None:
    """Print how each workload would fare, and why."""
    count = Counter(str(each.state) for each in found.results)
    captured = count.pop("captured", 0)
    print(line(f"# {captured} of {counted(len(found.results), 'workload')} would be captured{_others(found, count)}"))
    width = max((len(each.workload) for each in found.results), default=0)
    for each in found.results:
        print(line(f"# {each.state:<10}  {each.workload:<{width}}  {each.reason}"))
        for note in each.notes:
            print(line(f"# {'':<10}  {'':<{width}}  note: {note}"))


def heading(some: "tuple[Result, ...]") -> None:
    """Print whose the rules are that follow."""
    names = ", ".join(each.workload for each in some[:_MOST_NAMED])
    more = f" and {len(some) - _MOST_NAMED} more" if len(some) > _MOST_NAMED else ""
    print(line(f"# the rules of {names}{more}"))


def problems(found: "Results", side: str = "") -> None:
    """Print what can't be read, as errors."""
    for each in found.problems:
        print(line(f"weir: {side}{each}"), file=sys.stderr)


def differences(changed: "list[Difference]", compared: int, *, whole: bool) -> None:
    """Print the workloads that fare otherwise, those with the same changes of rules together.

    Not `whole`: something could not be read, and may be what differs.
    """
    if not changed:
        said = f"capture would do with {counted(compared, 'workload')} what it did"
        print(f"same: {said}" if whole else f"as far as it can be read, {said}")
        return
    print(f"{len(changed)} of {counted(compared, 'workload')} {'fares' if len(changed) == 1 else 'fare'} otherwise")
    alike: dict[tuple[str, ...], list[Difference]] = {}
    for each in changed:
        alike.setdefault(_rule_changes(each), []).append(each)
    for changes, some in alike.items():
        for each in some:
            print(line(_told(each)))
        for change in changes:
            print(clean(f"    {change}"))


def differences_as_json(changed: "Iterable[Difference]", compared: int, old: "Results", new: "Results") -> None:
    """Print the workloads that fare otherwise as one JSON document."""
    document = {
        "differences": [
            {
                "workload": each.workload,
                "old": _side(each.old),
                "new": _side(each.new),
                "changes": list(_rule_changes(each)),
            }
            for each in changed
        ],
        "compared": compared,
        "old_errors": old.document()["errors"],
        "errors": new.document()["errors"],
    }
    print(json.dumps(document, indent=2))


def _side(result: "Result | None") -> dict[str, object] | None:
    return None if result is None else {"state": str(result.state), "reason": result.reason}


def _told(each: "Difference") -> str:
    if each.old is None and each.new is not None:
        return f"+ {each.workload}: {each.new.state}: {each.new.reason}"
    if each.new is None:
        return f"- {each.workload}: was {each.old.state if each.old else 'there'}"
    if each.old is not None and each.old.state is not each.new.state:
        return f"! {each.workload}: {each.new.state}, was {each.old.state}: {each.new.reason}"
    return f"! {each.workload}: {each.new.state}, with other rules"


def _rule_changes(each: "Difference") -> tuple[str, ...]:
    """Return what changes in the rules of a workload that has some on both sides; all of them would say nothing."""
    both = each.old is not None and each.new is not None and each.old.rules is not None and each.new.rules is not None
    return tuple(each.plan.describe().splitlines()) if both else ()


def _others(found: "Results", count: Counter[str]) -> str:
    words = [f"{number} {state}" for state, number in sorted(count.items())]
    kinds = [f"{number} {kind}" for kind, number in found.others.items()]
    if kinds:
        more = ", ..." if len(kinds) > _MOST_NAMED else ""
        words.append(f"beside them make no pods: {', '.join(kinds[:_MOST_NAMED])}{more}")
    return "".join(f"; {each}" for each in words)


def line(text: str) -> str:
    """Return a text as one line, whatever stands in the manifests: nothing of them ever gets out of a comment."""
    return clean(text.replace("\n", "\\n").replace("\r", "\\r"))
