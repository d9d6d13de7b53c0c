"""The connections of one namespace at one moment, read from its sockets; from conntrack where these don't explain it.

A dump of conntrack walks a hash table that all namespaces share, 11 ms however few the entries; a listing of sockets
takes 0.2 ms and 3 us for each, and tells as much of what a pod has open, with how long it has been silent. A namespace
that forwards, or is flooded, has many more entries than sockets: there the dump is made.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from agent.flows.kept import conntrack_of, stats_of
from agent.flows.sorting import Sorted, sort
from agent.kernel.activity import activities, address_and_port
from agent.kernel.conntrack import Conntrack, Entry, FlowTuple, Stats, Status
from agent.kernel.handle import Handle
from agent.kernel.sockets import TcpState
from agent.streams import Stream
from rulesets.capture import Capture

SOON = 120.0
"""Seconds: an entry that runs out within them, with no keepalive before, is told of."""
SILENCES = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21600.0)
"""Seconds: the bounds between which open connections are sorted by how long they have been silent."""
UNEXPLAINED = 1000
"""Entries beyond four for each socket, from which on conntrack itself is listed."""
MOST_FOUND = 256
"""Silent streams whose entries are looked up, the longest silent first: 0.02 ms each."""

_TCP = 6
_LEAST_SILENT = 1.0
# enum tcp_conntrack (nf_conntrack_tcp.h) of entries, and the states of sockets, by what they count as.
_ENTRY_STATES = {1: "syn_sent", 3: "established", 7: "time_wait"}
_SOCKET_STATES = {
    TcpState.ESTABLISHED: "established",
    TcpState.SYN_SENT: "syn_sent",
    TcpState.TIME_WAIT: "time_wait",
}
STATES = ("established", "syn_sent", "time_wait", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expiring:
    """A captured stream that is open and silent, and whose conntrack entry runs out before anything is due on it.

    `silent` and `left` are in seconds; `keepalive` is when the next one is due, None where none is on.
    """

    stream: Stream
    silent: float
    left: float
    keepalive: float | None

    def __str__(self) -> str:
        due = "no keepalive is on" if self.keepalive is None else f"its keepalive is due in {self.keepalive:.0f} s"
        return (
            f"{self.stream} has been silent for {self.silent:.0f} s, its conntrack entry runs out in {self.left:.0f} s,"
            f" and {due}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was open.

    `states` are counts by `STATES`, of TCP connections by their sockets, one with both ends here once; of entries where
    `listed`: others than TCP are ``other`` then. `captured` are the application's connections that the proxy carries,
    `direct` those past it; the proxy's own and those within the namespace are neither. `silences` are how many open
    connections have been silent up to each of `SILENCES` and beyond, `silent` is the sum in seconds.
    `not_looked_up` are captured streams beyond `MOST_FOUND`. `at` is time.monotonic(), `seconds` what it cost of a
    processor.
    """

    states: dict[str, int]
    captured: int = 0
    direct: int = 0
    listed: bool = False
    expiring: tuple[Expiring, ...] = ()
    not_looked_up: int = 0
    silences: tuple[int, ...] = (0,) * (len(SILENCES) + 1)
    silent: float = 0.0
    at: float = 0.0
    seconds: float = 0.0


def look(handle: Handle, capture: Capture | None, stats: Stats | None = None) -> Look:
    """Return what is open in a namespace. Its thread enters it.

    `capture` None is a target that isn't to be captured: nothing is. `stats` are its newest, where known. Raises
    `WeirError`.
    """
    began = time.thread_time()
    if stats is None:
        stats = stats_of(handle)
    if not stats.entries:
        return Look(states=dict.fromkeys(STATES, 0), at=time.monotonic())
    with handle.inside():
        found = sort(activities(), capture)
    states = dict.fromkeys(STATES, 0)
    captured, direct, listed = found.captured, found.direct, False
    with conntrack_of(handle) as conntrack:
        if stats.entries > UNEXPLAINED + 4 * found.sockets:
            listed = True
            captured, direct = _count(conntrack.entries(), capture, states)
        else:
            for number, many in found.states.items():
                states[_SOCKET_STATES.get(TcpState(number), "other")] += many
        expiring = _expiring(conntrack, found) if capture is not None else ()
    silences, silent = _by_silence(found.silences)
    return Look(
        states=states,
        captured=captured,
        direct=direct,
        listed=listed,
        expiring=expiring,
        not_looked_up=max(0, len(found.carried) - MOST_FOUND),
        silences=silences,
        silent=silent,
        at=time.monotonic(),
        seconds=time.thread_time() - began,
    )


def is_captured(entry: Entry, capture: Capture) -> bool:
    """Tell whether an entry is of an application's connection that the proxy carries.

    That is one translated to the port for outgoing connections, or one that the proxy dials in a client's name: it has
    the connection mark. What comes in to the proxy is the same connection's other part.
    """
    if entry.status & Status.DST_NAT and entry.reply_port == capture.outbound_port:
        return True
    return capture.connection_mark.matches(entry.mark)


def is_of_proxy(entry: Entry, capture: Capture) -> bool:
    """Tell whether an entry is of a connection that comes in to the proxy: redirected, or by HBONE."""
    if entry.status & Status.DST_NAT and entry.reply_port == capture.inbound_port:
        return True
    return entry.destination_port == capture.hbone_port


def _count(entries: Iterable[Entry], capture: Capture | None, states: dict[str, int]) -> tuple[int, int]:
    """Count entries into `states`; return how many are captured and how many direct."""
    captured = direct = 0
    for each in entries:
        kind = _ENTRY_STATES.get(each.state, "other")
        states[kind] += 1
        if kind != "established":
            continue
        if capture is not None and is_captured(each, capture):
            captured += 1
        elif capture is None or not is_of_proxy(each, capture):
            direct += 1
    return captured, direct


def _expiring(conntrack: Conntrack, found: Sorted) -> tuple[Expiring, ...]:
    """Return the captured streams that are silent and whose entries run out soon, the soonest first."""
    silent = sorted(found.carried, key=lambda each: -(each.silent or 0.0))[:MOST_FOUND]
    told: dict[FlowTuple, Expiring] = {}
    for each in silent:
        if (each.silent or 0.0) < _LEAST_SILENT:
            break
        (near, near_port), (far, far_port) = (address_and_port(each.family, end) for end in (each.near, each.far))
        tuple_ = FlowTuple(
            source=near, destination=far, protocol=_TCP, source_port=near_port, destination_port=far_port
        )
        flow = conntrack.find(tuple_)
        if flow is None or flow.tcp_state != "ESTABLISHED":
            continue
        left = float(flow.timeout)
        # A quarter of its time has passed in silence: a stream that is in use is as good as new with each packet.
        if left > SOON or 3 * (each.silent or 0.0) < left:
            continue
        if each.keepalive is not None and each.keepalive < left:
            continue
        stream = Stream(
            source=flow.original.source,
            source_port=flow.original.source_port,
            destination=flow.original.destination,
            destination_port=flow.original.destination_port,
        )
        told[flow.original] = Expiring(stream=stream, silent=each.silent or 0.0, left=left, keepalive=each.keepalive)
    return tuple(sorted(told.values(), key=lambda each: each.left))


def _by_silence(silences: Iterable[float]) -> tuple[tuple[int, ...], float]:
    counts, total = [0] * (len(SILENCES) + 1), 0.0
    for each in silences:
        total += each
        counts[next((at for at, bound in enumerate(SILENCES) if each <= bound), len(SILENCES))] += 1
    return tuple(counts), total


def words(found: Look) -> tuple[str, ...]:
    """Return what a user is told of a look, a line each: where connections stand, then each that is about to break."""
    states = ", ".join(f"{many} {name.replace('_', ' ')}" for name, many in found.states.items())
    source = "conntrack entries" if found.listed else "TCP connections"
    lines = [f"{source}: {states}; {found.captured} captured, {found.direct} direct"]
    lines += [f"about to break: {each}" for each in found.expiring]
    if found.not_looked_up:
        lines.append(f"{found.not_looked_up} more silent streams were not looked up")
    return tuple(lines)
