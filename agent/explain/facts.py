"""All that is looked at to explain one target, read once; judging it touches nothing."""

import os
import socket
from collections import Counter as Tally
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from agent.doctor import Finding, conntrack, of_target
from agent.doctor.ports import Holders, proxy_ports
from agent.drift import Drift
from agent.errors import WeirError
from agent.explain import live
from agent.explain.live import Live
from agent.explain.places import Listening, read_listening
from agent.inspection import Inspection, inspect
from agent.kernel import ipv6
from agent.kernel.conntrack import Conntrack, read_stats
from agent.kernel.handle import Handle
from agent.kernel.ipv6 import Ipv6
from agent.kernel.netns import Identity, Netns, identify
from agent.kernel.policy_rules import Rtnetlink, RuleEntry
from agent.kernel.portid import Process, process
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.state import Records
from agent.targets import HOST, Captured, Target
from rulesets.capture import Capture

SHORT = 60
"""Seconds: an idle stream whose entry is forgotten sooner than this is counted as about to be."""

MOST_ENTRIES = 50_000
"""Of connection tracking that are listed by their states: more take seconds."""

_MOST_PROCESSES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What isn't in the kernel: who wants the target captured, and what a running daemon knows of it.

    `name` is the target's, `wanted` says what decided, in words, `settings` those that aren't Weir's own; `daemon` is
    whether one keeps the target, `error` its newest failure there, `mend` what it says to do. `drifts` are what changed
    behind Weir's back, newest last; `waits` is why a pod isn't captured yet, in the daemon's words. `again` are the
    arguments of a command line that mean this target.
    """

    name: str
    wanted: str
    notes: tuple[str, ...] = ()
    settings: Mapping[str, object] | None = None
    daemon: bool = False
    error: str = ""
    mend: str = ""
    drifts: tuple[Drift, ...] = ()
    waits: str = ""
    again: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """Connection tracking of a namespace: entries, the most that there may be (None: not told), entries by state.

    `expiring` counts established streams that will be forgotten within `SHORT` seconds unless a packet comes, `lost`
    are what the kernel has counted since the namespace was made: failed insertions, drops, invalid packets.
    """

    entries: int | None = None
    maximum: int | None = None
    states: Mapping[str, int] | None = None
    expiring: int = 0
    lost: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A target as it was seen. `looked` is the error where what is wanted can't be had there.

    `processes` are some that live in the namespace, `before` is whether a namespace that bore this name was captured
    and has been replaced.
    """

    target: Target
    word: Word
    identity: Identity
    cookie: int
    looked: Inspection | WeirError
    live: Live
    listening: tuple[Listening, ...]
    rules: tuple[RuleEntry, ...]
    ipv6: Ipv6
    tracked: Tracked
    findings: tuple[Finding, ...]
    processes: tuple[Process, ...] = ()
    before: bool = False

    @property
    def capture(self) -> Capture:
        """How the target is to be captured; Weir's own where it isn't."""
        return self.target.wish.capture if isinstance(self.target.wish, Captured) else Capture()

    @property
    def wanted(self) -> bool:
        """Whether it is to be captured."""
        return isinstance(self.target.wish, Captured)


def read(
    target: Target,
    handle: Handle,
    word: Word,
    *,
    records: Records,
    keepers: frozenset[int] = frozenset(),
    holders: Holders | None = None,
) -> Facts:
    """Look at a target. `keepers` are the inodes of the daemon's sockets. Raises `WeirError` where nobody can look."""
    holders = holders or Holders()
    looked: Inspection | WeirError
    try:
        looked = inspect(target, handle, records, weigh=True, keepers=keepers)
    except WeirError as error:
        looked = error
    ports = proxy_ports(target.wish.capture if isinstance(target.wish, Captured) else Capture())
    with handle.inside():
        listening = read_listening(ports.values(), holders)
        with Rtnetlink() as netlink:
            rules = netlink.rules()
        state, tracked = ipv6.state(), _tracked()
    identity = handle.netns.identity
    return Facts(
        target=target,
        word=word,
        identity=identity,
        cookie=handle.cookie,
        looked=looked,
        live=live.read(handle, target.table),
        listening=listening,
        rules=rules,
        ipv6=state,
        tracked=tracked,
        findings=of_target(target, holders=holders) if isinstance(target.wish, Captured) else (),
        processes=() if target.netns == HOST else _living_in(identity),
        before=_replaced(records, target.netns, identity),
    )


def _tracked() -> Tracked:
    told = conntrack.read()
    found = Tracked(entries=told.count, maximum=told.maximum)
    feature = "conntrack counts over netlink"
    with suppress(WeirError), RawNetlink(NETLINK_NETFILTER, feature=feature, option="CONFIG_NF_CT_NETLINK") as netlink:
        stats = read_stats(netlink)
        told_lost = ("drops", "early_drops", "insert_failed", "invalid")
        maximum = found.maximum if stats.maximum is None else stats.maximum or None
        found = replace(found, maximum=maximum, lost={name: getattr(stats, name) for name in told_lost})
    with suppress(WeirError), Conntrack() as table:
        found = replace(found, entries=table.count())
        flows = table.flows() if (found.entries or 0) <= MOST_ENTRIES else ()
        names = {socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp", socket.IPPROTO_ICMPV6: "icmp"}
        states = Tally(each.tcp_state or names.get(each.original.protocol, "other") for each in flows)
        expiring = sum(each.tcp_state == "ESTABLISHED" and each.timeout < SHORT for each in flows)
        found = replace(found, states={name.lower(): states[name] for name in sorted(states)}, expiring=expiring)
    return found


def _living_in(identity: Identity) -> tuple[Process, ...]:
    """Return some processes that are in a namespace, the oldest numbers first."""
    found = []
    for number in sorted(int(each) for each in os.listdir("/proc") if each.isdigit()):
        if identify(f"/proc/{number}/ns/net") == identity:
            with suppress(OSError):  # it has ended
                found.append(process(number))
        if len(found) == _MOST_PROCESSES:
            break
    return tuple(found)


def _replaced(records: Records, netns: str, identity: Identity) -> bool:
    there = records.identities_of(netns)
    return bool(there) and identity not in there and identify(Netns(netns).file) == identity
