"""With whom a namespace's connections are: one dump of its conntrack, when somebody asks."""

from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_address

from agent.flows.kept import conntrack_of
from agent.kernel.addresses import Rtnetlink, addresses_of
from agent.kernel.conntrack import Entry
from agent.kernel.handle import Handle
from rulesets.vocabulary import Address

_ESTABLISHED = 3  # enum tcp_conntrack


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """An address with which a namespace has connections, or of which it waits to forget them.

    `entries` are its conntrack entries, `established` those of open TCP streams. `bytes` are of both directions, None
    where nothing is counted (nf_conntrack_acct). A captured connection has its real peer.
    """

    address: Address
    entries: int
    established: int
    bytes: int | None

    def __str__(self) -> str:
        size = "" if self.bytes is None else f", {self.bytes} bytes"
        return f"{self.address}: {self.entries} entries, {self.established} established{size}"


def top_peers(handle: Handle, most: int) -> tuple[Peer, ...]:
    """Return the peers with the most conntrack entries, at most so many of them, and of equal ones the lower address.

    Of what is forwarded the peer is the destination. 11 ms, and 2 us for each entry. Raises `WeirError`.
    """
    with handle.inside(), Rtnetlink() as rtnetlink:
        own = {each.packed for each in addresses_of(rtnetlink)}
    entries: Counter[bytes] = Counter()
    established: Counter[bytes] = Counter()
    size: Counter[bytes] = Counter()
    with conntrack_of(handle) as conntrack:
        for each in conntrack.entries():
            peer = _peer(each, own)
            entries[peer] += 1
            established[peer] += each.state == _ESTABLISHED
            if each.bytes is not None:
                size[peer] += sum(each.bytes)
    largest = sorted(entries, key=lambda peer: (-entries[peer], len(peer), peer))[:most]
    return tuple(
        Peer(
            address=ip_address(peer),
            entries=entries[peer],
            established=established[peer],
            bytes=size.get(peer),
        )
        for peer in largest
    )


def _peer(entry: Entry, own: set[bytes]) -> bytes:
    return entry.source if entry.destination in own and entry.source not in own else entry.destination
