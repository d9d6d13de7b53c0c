"""Rules of others that win: over Weir's in a namespace, and over the source that the node gives to probes."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent.doctor.findings import Finding, Level
from agent.kernel import cgroups
from agent.kernel.handle import Handle
from agent.kernel.policy_rules import Link
from agent.kernel.tablequery import BaseChain, TableName
from agent.targets import Rival
from rulesets import pod
from rulesets.capture import Capture
from rulesets.host import HOST_TABLE, NAT_POST

_POSTROUTING = 4  # include/uapi/linux/netfilter.h, NF_INET_POST_ROUTING
_MOST = 5  # rules of others that are named in one namespace


def read(handle: Handle, capture: Capture, table: str) -> tuple[Rival, ...]:
    """Return whose rules take from what a capture is to get, or may, as `weir verify` finds them.

    `table` is the name of Weir's own there.
    """
    from agent.rivals.reading import rivals  # which brings the proofs with it

    return rivals(handle, pod.build(_with_number(capture), table=table))


def _with_number(capture: Capture) -> Capture:
    """Return a capture with its cgroup's number, as rules have it; without one that isn't there (see `ports`)."""
    wanted = capture.proxy_cgroup
    if wanted is None or not isinstance(wanted.cgroup, str):
        return capture
    number = cgroups.number(wanted.cgroup)
    return replace(capture, proxy_cgroup=None if number is None else replace(wanted, cgroup=number))


def judge(found: Iterable[Rival]) -> Iterator[Finding]:
    """Yield a finding for each rule of others that is met before Weir's and takes traffic, or may."""
    found = sorted(found, key=lambda each: not each.certain)
    for each in found[:_MOST]:
        rule = f"{each.place}: `{each.rule}`" if each.rule else each.place
        yield Finding(
            check="foreign-rule",
            level=Level.ERROR if each.certain else Level.WARNING,
            what=f"{rule}: {each.packet} {each.fate}" if each.certain else f"{rule}: {each.why}",
            why="it is met before Weir's rules, so that what it takes isn't captured as it should be"
            if each.certain
            else "it is met before Weir's rules, and nobody can tell whether it takes what is to be captured",
            do="take it away or put it behind Weir's (after -100), or leave what it takes uncaptured",
        )
    if len(found) > _MOST:
        yield Finding(
            check="foreign-rule",
            level=Level.WARNING,
            what=f"{len(found) - _MOST} more rules of others are met before Weir's",
            why="what they take isn't captured as it should be",
            do="`weir verify` lists all",
        )


def read_sources(handle: Handle) -> tuple[BaseChain, ...]:
    """Return the chains of others that may translate sources before the node's table is asked."""
    return tuple(
        each
        for each in handle.base_chains()
        if each.type == "nat"
        and each.hook == _POSTROUTING
        and each.priority <= NAT_POST.priority
        and each.table != TableName(family="inet", name=HOST_TABLE)
        and each.rules
    )


def judge_sources(found: Iterable[BaseChain], links: Iterable[Link] = ()) -> Iterator[Finding]:
    """Yield a finding for each such chain, and for networks that no rule shows."""
    for each in found:
        yield Finding(
            check="source-translation",
            level=Level.WARNING,
            what=f"table {each.table}, chain {each.name} translates sources at priority {each.priority}, before"
            f" Weir's ({NAT_POST.priority})",
            why="the first chain that decides gives a probe its source: a masquerade there makes probes look like any"
            " other connection, and captured pods send them to the proxy",
            do="let that chain come later, at srcnat (100) as is usual",
        )
    if any(each.name == "cilium_host" for each in links):
        yield Finding(
            check="source-translation",
            level=Level.NOTE,
            what="the interface cilium_host is there: Cilium treats packets of pods in BPF programs",
            why="they can't be read here; with bpf.masquerade=true, answers to the probe source don't come back",
            do="set bpf.masquerade=false and socketLB.hostNamespaceOnly=true, and try a probe",
        )
