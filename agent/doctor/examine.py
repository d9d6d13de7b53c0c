"""The examination: every check of the node and of each target, none of which can end another."""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from agent.doctor import chain, conntrack, foreign, kernel_features, machine, marks, policy, ports, replies, settings
from agent.doctor.findings import Diagnosis, Finding, Level, ordered, placed
from agent.doctor.place import Place
from agent.errors import WeirError
from agent.kernel import features, routing
from agent.kernel.netns import Netns
from agent.kernel.policy_rules import TABLE_LOCAL, Link, Rtnetlink, RuleEntry
from agent.targets import HOST, Captured, Target
from rulesets.capture import Capture
from rulesets.host import HOST_TABLE
from rulesets.vocabulary import Address

WORKERS = 4
_T = TypeVar("_T")
_Check = tuple[str, Callable[[], Iterable[Finding]]]
# What a command mends on the node, wherever it was seen.
_ON_NODE = frozenset({"conntrack-full"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The node that is examined: its namespace and folders, and what others know of it.

    `machine` reads what isn't network. It is a function, so that it fails, where it does, as a check of its own.
    """

    machine: Callable[[], machine.Machine]
    netns: Netns = field(default_factory=lambda: Netns(HOST))
    configurations: Path = chain.CONFIGURATIONS
    programs: Path = chain.PROGRAMS


def examine(targets: Iterable[Target], node: Node) -> Diagnosis:
    """Look at the node and at each target once, and return what was found. Changes nothing, and raises nothing."""
    targets = tuple(each for each in targets if isinstance(each.wish, Captured))
    of_host = next((each for each in targets if each.netns == node.netns.text), None)
    others = [each for each in targets if each is not of_host]
    holders = ports.Holders()
    with ThreadPoolExecutor(WORKERS, "doctor") as workers:
        probed = workers.submit(_checked, "node", _features())
        links = workers.submit(_links, node.netns).result()
        ends = tuple(each for found in workers.map(partial(_ends, links=links), others) for each in found)
        looked = workers.submit(_node, node, of_host, links, ends, holders)
        *alone, probes = probed.result(), *looked.result()
        results = [*alone, *workers.map(partial(_target, links=links, holders=holders), others)]
    found = [finding for each in results for finding in each.findings]
    if not probes:
        found = [replace(each, level=Level.NOTE) if _is_of_probes(each) else each for each in found]
    return Diagnosis(
        findings=ordered(found),
        examined=("node", *(each.name for each in others)),
        checks=sum(each.checks for each in results),
    )


def of_target(target: Target, *, holders: ports.Holders) -> tuple[Finding, ...]:
    """Return what is wrong in one target alone, the worst first: the node isn't looked at, nor what it is able to."""
    return ordered(_target(target, links=(), holders=holders).findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    findings: tuple[Finding, ...]
    checks: int


def _checked(where: str, checks: Iterable[_Check], *, wanted: bool = True) -> _Result:
    """Make checks. One that fails is a finding itself; of a machine nothing is known beforehand, so anything can."""
    found: list[Finding] = []
    made = 0
    for name, check in checks:
        made += 1
        try:
            found += placed(check(), where, wanted=wanted)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other checks go on
            found.append(_failed(name, where, error))
    return _Result(findings=tuple(found), checks=made)


def _failed(name: str, where: str, error: Exception) -> Finding:
    said = str(error) if isinstance(error, WeirError | OSError) else f"{type(error).__name__}: {error}"
    hint = error.hint if isinstance(error, WeirError) else ""
    return Finding(
        check=name,
        where=where,
        level=Level.UNCHECKED,
        what=f"couldn't be checked: {said.partition(chr(10))[0]}",
        why="nobody knows whether all is well there",
        do=hint or ("run as root" if os.geteuid() else ""),
    )


def _features() -> Iterator[_Check]:
    yield "kernel", lambda: kernel_features.judge(features.probe(), kernel_features.read_build())


def _links(netns: Netns) -> tuple[Link, ...]:
    """Return the node's interfaces; none where it can't be looked at, which each check says itself."""
    try:
        with closing(Place(netns)) as place:
            return _inside(place, lambda netlink: netlink.links())
    except Exception:  # noqa: BLE001 - see _checked
        return ()


def _ends(target: Target, *, links: tuple[Link, ...]) -> tuple[tuple[int, Address], ...]:
    """Return a target's addresses, each with the node's interface behind which it is; none likewise."""
    try:
        with closing(Place(Netns(target.netns))) as place:
            return _inside(place, lambda netlink: replies.ends(netlink, links))
    except Exception:  # noqa: BLE001 - see _checked
        return ()


def _node(
    node: Node,
    target: Target | None,
    links: tuple[Link, ...],
    ends: tuple[tuple[int, Address], ...],
    holders: ports.Holders,
) -> tuple[_Result, bool]:
    """Check the node; where it is a target too, as one. Return also whether it has pods that are probed."""
    seen = chain.read(node.configurations, node.programs)
    alone: list[_Check] = [("machine", lambda: machine.judge(node.machine())), ("cni", lambda: chain.judge(seen))]
    results = [_checked("node", alone)]
    probes = seen.used is not None
    try:
        place = Place(node.netns)
    except Exception as error:  # noqa: BLE001 - see _checked
        results.append(_Result(findings=(_failed("node", "node", error),), checks=1))
    else:
        with closing(place):
            probes = probes or _has_probe_table(place)
            has_pods = probes or any(each.kind == "veth" and each.away for each in links)
            results.append(_checked("node", _of_node(place, links, ends, has_pods=has_pods)))
            capture = _capture(target)
            results.append(
                _checked("node", _of_namespace(place, capture, HOST_TABLE, holders), wanted=target is not None)
            )
    findings = tuple(finding for each in results for finding in each.findings)
    return _Result(findings=findings, checks=sum(each.checks for each in results)), probes


def _has_probe_table(place: Place) -> bool:
    """Tell whether Weir's table for probes is on the node; who can't know is told no."""
    try:
        return any(each.table.name == HOST_TABLE for each in place.handle().base_chains())
    except WeirError:
        return False


def _is_of_probes(found: Finding) -> bool:
    # Without a kubelet nobody probes, and nobody's restarts depend on it.
    return found.check in ("probe-reply", "source-translation") and found.level is not Level.UNCHECKED


def _of_node(
    place: Place, links: tuple[Link, ...], ends: tuple[tuple[int, Address], ...], *, has_pods: bool
) -> Iterator[_Check]:
    def tracking() -> Iterator[Finding]:
        with place.inside():
            found = conntrack.read()
        yield from conntrack.judge(found)
        yield from conntrack.judge_size(found)

    def node_settings() -> Iterator[Finding]:
        with place.inside(), Rtnetlink() as netlink:
            found = settings.read(netlink.links(), advertised=netlink.advertised())
        yield from settings.judge_node(found, has_pods=has_pods)

    def probe_replies() -> Iterator[Finding]:
        found, rules = _inside(place, lambda netlink: (replies.read_node(netlink, links, ends), netlink.rules()))
        yield from replies.judge_node(found, rules)

    yield "conntrack", tracking
    yield "settings", node_settings
    yield "probe-reply", probe_replies
    yield "source-translation", lambda: foreign.judge_sources(foreign.read_sources(place.handle()), links)


def _target(target: Target, *, links: tuple[Link, ...], holders: ports.Holders) -> _Result:
    try:
        place = Place(Netns(target.netns))
    except Exception as error:  # noqa: BLE001 - see _checked
        return _Result(findings=(_failed("namespace", target.name, error),), checks=1)
    capture = _capture(target)

    def tracking() -> Iterator[Finding]:
        with place.inside():
            found = conntrack.read()
        yield from conntrack.judge(found)

    def probe_replies() -> Iterator[Finding]:
        def read(netlink: Rtnetlink) -> tuple[replies.PodReply, ...]:
            return replies.read_pod(netlink, capture.probe_sources, links)

        found, rules = _inside(place, lambda netlink: (read(netlink), netlink.rules()))
        yield from replies.judge_pod(found, rules)

    with closing(place):
        own: list[_Check] = [("conntrack", tracking), ("probe-reply", probe_replies)]
        result = _checked(target.name, [*own, *_of_namespace(place, capture, target.table, holders)])
    return replace(result, findings=tuple(_pasted(each, target) for each in result.findings))


def _of_namespace(place: Place, capture: Capture, table: str, holders: ports.Holders) -> Iterator[_Check]:
    """Yield the checks of a namespace in which traffic is captured, or could be; `table` is Weir's there."""

    def collisions() -> Iterator[Finding]:
        def read(netlink: Rtnetlink) -> tuple[tuple[RuleEntry, ...], policy.Tables]:
            rules = netlink.rules()
            before = (each for each in rules if each.priority <= capture.rule_priority)
            return rules, netlink.reach(each.table for each in before if each.table not in (0, TABLE_LOCAL))

        rules, tables = _inside(place, read)
        with place.inside():
            others = routing.read(capture.route_table).others
        yield from policy.judge(rules, others, capture, tables)

    def ports_taken() -> Iterator[Finding]:
        with place.inside():
            bound, free = ports.read_bound(capture), ports.read_range()
        yield from ports.judge(bound, holders.of(each.inode for each in bound), free, capture)

    def namespace_settings() -> Iterator[Finding]:
        with place.inside(), Rtnetlink() as netlink:
            found = settings.read(netlink.links())
        yield from settings.judge(found, capture)

    yield "rules-and-routes", collisions
    yield "settings", namespace_settings
    yield "ports", ports_taken
    yield "proxy-cgroup", lambda: ports.judge_cgroup(capture)
    yield "foreign-rules", lambda: foreign.judge(foreign.read(place.handle(), capture, table))
    yield "marks", lambda: marks.judge(marks.read(place.handle()), capture)


def _inside(place: Place, ask: Callable[[Rtnetlink], _T]) -> _T:
    with place.inside(), Rtnetlink() as netlink:
        return ask(netlink)


def _capture(target: Target | None) -> Capture:
    return target.wish.capture if target is not None and isinstance(target.wish, Captured) else Capture()


def _pasted(found: Finding, target: Target) -> Finding:
    """Return a finding of a target with a command that does what it says there."""
    if not found.command or found.check in _ON_NODE:
        return found
    if found.command.startswith("weir "):
        if target.name.startswith("pod/"):
            return replace(found, do=f"{found.do}; for pods it is a value of Weir's chart, under capture", command="")
        weir, verb, *rest = found.command.split(" ")
        return replace(found, command=" ".join([weir, verb, "--netns", shlex.quote(target.netns), *rest]))
    return replace(found, command=f"nsenter --net={shlex.quote(Netns(target.netns).file)} {found.command}")
