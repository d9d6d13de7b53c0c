"""All that is looked at to explain one target, read once; judging it touches nothing."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from agent.doctor import Finding, of_target
from agent.doctor.ports import Holders, proxy_ports
from agent.drift import Drift
from agent.errors import WeirError
from agent.explain import live
from agent.explain.live import Live
from agent.explain.places import Listening, read_listening
from agent.flows.kept import stats_of
from agent.flows.look import Look, look
from agent.flows.peers import Peer, top_peers
from agent.inspection import Inspection, inspect
from agent.kernel import ipv6
from agent.kernel.conntrack import Stats
from agent.kernel.handle import Handle
from agent.kernel.ipv6 import Ipv6
from agent.kernel.netns import Identity, Netns, identify
from agent.kernel.policy_rules import Rtnetlink, RuleEntry
from agent.kernel.portid import Process, process
from agent.state import Records
from agent.targets import HOST, Captured, Target
from rulesets.capture import Capture

MOST_PEERS = 5
"""Peers that are named: those with the most entries."""

_MOST_PROCESSES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What isn't in the kernel: who wants the target captured, and what a running daemon knows of it.

    `name` is the target's, `wanted` says what decided, in words, `settings` those that aren't Weir's own; `daemon` is
    whether one keeps the target, `error` its newest failure there, `mend` what it says to do. `drifts` are what changed
    behind Weir's back, newest last; `waits` is why a pod isn't captured yet, in the daemon's words; it `stays` as it
    was meanwhile where what is wanted can't be told. `again` are the arguments of a command line that mean this target.
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
    stays: bool = False
    again: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """Connection tracking of a namespace: what it counts (None: it doesn't tell), what is open, with whom most is."""

    stats: Stats | None = None
    look: Look | None = None
    peers: tuple[Peer, ...] = ()


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
        state = ipv6.state()
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
        tracked=_tracked(handle, target.wish.capture if isinstance(target.wish, Captured) else None),
        findings=of_target(target, holders=holders) if isinstance(target.wish, Captured) else (),
        processes=() if target.netns == HOST else _living_in(identity),
        before=_replaced(records, target.netns, identity),
    )


def _tracked(handle: Handle, capture: Capture | None) -> Tracked:
    try:
        stats = stats_of(handle)
        found = look(handle, capture, stats)
        return Tracked(stats=stats, look=found, peers=top_peers(handle, MOST_PEERS) if stats.entries else ())
    except WeirError:  # a kernel without ctnetlink: nothing is told, and that is said
        return Tracked()


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
