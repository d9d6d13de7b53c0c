"""Explanations and packets' ways as text for people."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from agent.cli.failing import clean
from agent.cli.manifests_text import line, problems
from agent.cli.options import Output
from agent.errors import WeirError
from agent.words import counted

if TYPE_CHECKING:
    from agent.cli.manifests import Question
    from agent.explain.explanation import Explanation
    from agent.explain.journey import Journey

_WIDTH = 11


def show(found: "Explanation", *, apart: bool) -> None:
    """Print an explanation: the answer, its topics, what mends it."""
    if apart:
        print()
    print(_flat(found.answer))
    for topic in found.topics:
        print(f"  {topic.standing:<5} {topic.name:<{_WIDTH}} {_flat(topic.said)}")
        for each in topic.more:
            print(f"  {'':<5} {'':<{_WIDTH}} {_flat(each)}")
    print(_flat(found.mend))


def journey(target: str, found: "Journey | WeirError") -> None:
    """Print the way of a packet: what becomes of it, then what it met, in order."""
    if isinstance(found, WeirError):
        print(_flat(f"{target}: {found}"))
        return
    print(_flat(f"{target}: the packet {found.said}."))
    print(_flat(f"  {found.packet}"))
    hook = ""
    for step in found.steps:
        if step.hook != hook:
            hook = step.hook
            print(f"  {hook}")
        which = f"{step.place}: {step.text}" if step.table else step.text
        print(_flat(f"    {which}"))
        print(_flat(f"      {'' if step.known else '? '}{step.did}"))
    for each in found.notes:
        print(_flat(f"  taken for granted: {each}"))
    for each in found.unread:
        print(_flat(f"  not walked, and may change all of it: {each}"))
    marks = [f"packet mark {found.mark:#x}"] if found.mark else []
    marks += [f"connection mark {found.connection_mark:#x}"] if found.connection_mark else []
    print(
        _flat(
            f"{counted(sum(bool(each.table) for each in found.steps), 'rule')} met; it ends as {found.end}, for"
            f" {found.arrives}{''.join(f', {each}' for each in marks)}"
        )
    )


def of_manifests(question: "Question", paths: list[Path], output: Output) -> int:
    """Print what decides over workloads; return the exit code: 0 all captured, 1 some aren't, 2 can't be read."""
    from agent.cli.manifests import refuse_unknown

    found = question.results(paths)
    refuse_unknown(question.names, (found,))
    chosen = [each for each in found.results if not question.names or each.workload in question.names]
    captured = [each for each in chosen if str(each.state) == "captured"]
    if output is Output.JSON:
        told = [
            {
                "workload": each.workload,
                "captured": str(each.state) == "captured",
                "state": str(each.state),
                "decided": each.reason,
                "notes": list(each.notes),
                "file": each.place.file,
                "line": each.place.line,
            }
            for each in chosen
        ]
        print(json.dumps({"workloads": told, "errors": found.document()["errors"]}, indent=2))
    else:
        if len(chosen) == 1:
            one = chosen[0]
            fate = "would be captured" if captured else "would not be captured"
            print(line(f"{one.workload} {fate}: {one.reason}."))
        else:
            print(f"{len(captured)} of {counted(len(chosen), 'workload')} would be captured")
        for each in chosen:
            print(line(f"  {each.state:<10} {each.workload}: {each.reason}"))
            print(line(f"  {'':<10} in {each.place}"))
            for note in each.notes:
                print(line(f"  {'':<10} note: {note}"))
        problems(found)
        again = shlex.join([word for path in paths for word in ("-f", str(path))])
        ruled = next((each.workload for each in captured), None)
        print(
            line(
                f"`weir render {again} {ruled}` prints its rules"
                if ruled
                else "nothing of them would be captured:"
                " label the pod template or its Namespace istio.io/dataplane-mode=ambient"
            )
        )
    if found.problems:
        return 2
    return int(len(captured) < len(chosen))


def _flat(text: str) -> str:
    return clean(text).replace("\n", " ")
