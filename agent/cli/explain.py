"""`weir explain`: whether a target is captured, why not and what mends it; and what a packet meets there."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli import explain_words as words
from agent.cli import manifests, pods
from agent.cli.options import Names, Netns, Output, OutputOption, Settings, add, need_root, pasted, targets
from agent.errors import ConfigError, WeirError

if TYPE_CHECKING:
    from agent.explain.asked import Asked
    from agent.explain.explanation import Explanation
    from agent.explain.facts import Word
    from agent.explain.journey import Journey
    from agent.kernel.handle import Handle
    from agent.targets import Target


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    add(app, explain)


def explain(
    names: Names = None,
    netns: Netns = None,
    file: manifests.Files = None,
    settings: Settings = None,
    packet: Annotated[
        str | None,
        typer.Option("--packet", metavar="PACKET", help="A packet to walk through the rules: 'out tcp 10.0.0.7:443'"),
    ] = None,
    namespace: manifests.Namespace = None,
    selectors: manifests.Selectors = None,
    exclude_namespace: manifests.Excluded = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say whether a target is captured, and why not: the first line answers, the last line mends it.

    Between them stands what that rests on: who wants it captured and what decided so, the namespace, Weir's rules and
    those of others that win, policy rules and routes, who listens, families, connection tracking, the daemon's last
    error, what changed last and who did it. Everything is looked at now, in the kernel, with a daemon or without one.

    With --packet an imaginary packet goes through the live rules, everybody's, of nft and of both flavours of
    iptables: each rule that it meets is named with what it does, and each routing decision. Nothing is sent.

    With Kubernetes manifests it says of workloads whether their pods would be captured, and what decides.
    """
    asked = manifests.asked("explain", file, names, netns, settings, namespace, selectors, exclude_namespace)
    if asked is not None:
        if packet is not None:
            raise ConfigError("explain: --packet: manifests have no live rules", hint="name a target of this machine")
        raise typer.Exit(words.of_manifests(asked, file or [], output))
    need_root("explain")
    wanted = None if packet is None else _read(packet)
    known = _known(names, netns, file[0] if file else None, settings)
    chosen = tuple(target for target, _ in known if target is not None)
    if wanted is not None:
        raise typer.Exit(_packets(wanted, chosen, output))
    found = _explained(known)
    if output is Output.JSON:
        print(json.dumps({"targets": [each.document() for _, each in found]}, indent=2))
    else:
        for number, (_, each) in enumerate(found):
            words.show(each, apart=number > 0)
    raise typer.Exit(2 if any(failed for failed, _ in found) else int(not all(each.captured for _, each in found)))


def _read(packet: str) -> "Asked":
    from agent.explain.asked import read

    return read(packet)


def _known(
    names: list[str] | None, netns: list[str] | None, file: Path | None, settings: list[str] | None
) -> "list[tuple[Target | None, Word]]":
    """Return the targets that are meant, each with what isn't in the kernel; None where a pod has no namespace yet."""
    from agent.explain.asking import of_pod, of_target, status_of_daemon, wished

    if pods.meant(names):
        if netns or file is not None:
            raise ConfigError("a pod is captured as the daemon says: leave out --netns and --file")
        documents, status = pods.documents(names or ()), status_of_daemon()
        return [(pods.target(each), of_pod(each, status)) for each in documents]
    chosen, status = targets(names, netns, file, settings), status_of_daemon()

    def word(target: "Target") -> "Word":
        meant = target.netns if netns else target.name
        again = pasted([meant], netns=bool(netns), file=file, settings=settings)
        return of_target(target, status, netns=bool(netns), file=file, settings=settings, again=again)

    return [(wished(each, status), word(each)) for each in chosen]


def _explained(known: "list[tuple[Target | None, Word]]") -> "list[tuple[bool, Explanation]]":
    """Return an explanation of each target, and whether nobody could look."""
    from agent.cli.kernel import with_handles
    from agent.doctor.ports import Holders
    from agent.explain import facts, unlooked
    from agent.explain.topics import explain as explained
    from agent.kernel import portid
    from agent.local_api import Client
    from agent.state import Records

    keepers, holders = portid.sockets_of(Client().process()), Holders()
    of = {target.name: word for target, word in known if target is not None}

    def look(target: "Target", handle: "Handle") -> "Explanation":
        read = facts.read(target, handle, of[target.name], records=Records(), keepers=keepers, holders=holders)
        return explained(read)

    seen = iter(with_handles((target for target, _ in known if target is not None), look))
    found: list[tuple[bool, Explanation]] = []
    for target, word in known:
        if target is None:
            found.append((False, unlooked.waiting(word)))
            continue
        _, one = next(seen)
        failed = isinstance(one, WeirError)
        found.append((failed, unlooked.failed(target, word, one) if isinstance(one, WeirError) else one))
    return found


def _packets(asked: "Asked", chosen: "tuple[Target, ...]", output: Output) -> int:
    """Walk a packet through the rules of each target; return the exit code: 0 captured, 1 not, 2 nobody could look."""
    from agent.cli.kernel import with_handles
    from agent.explain import live
    from agent.explain.journey import End, travel
    from agent.targets import Captured
    from rulesets.capture import Capture

    if not chosen:
        raise ConfigError("explain: --packet: no pod that is meant has a namespace yet")

    def walk(target: "Target", handle: "Handle") -> "Journey":
        capture = target.wish.capture if isinstance(target.wish, Captured) else Capture()
        return travel(asked, handle, live.read(handle, target.table), capture)

    found = with_handles(chosen, walk)
    walked = [(target, each) for target, each in found if not isinstance(each, WeirError)]
    for _, error in found:
        if isinstance(error, WeirError) and len(found) == 1:
            raise error
    if output is Output.JSON:
        document = [
            {"target": target.name, "netns": target.netns, "error": str(each), "hint": each.hint}
            if isinstance(each, WeirError)
            else {"target": target.name, "netns": target.netns, **each.document()}
            for target, each in found
        ]
        print(json.dumps({"targets": document}, indent=2))
    else:
        for target, each in found:
            words.journey(target.name, each)
    if len(walked) < len(found):
        return 2
    return int(any(each.end is not End.CAPTURED for _, each in walked))
