"""What conntrack knows about one flow, as values."""

from dataclasses import dataclass
from enum import IntFlag

from rulesets.vocabulary import Address


class Status(IntFlag):
    """Bits of a conntrack entry by their kernel names (IPS_*, include/uapi/linux/netfilter/nf_conntrack_common.h)."""

    EXPECTED = 1 << 0
    SEEN_REPLY = 1 << 1
    ASSURED = 1 << 2
    CONFIRMED = 1 << 3
    SRC_NAT = 1 << 4
    DST_NAT = 1 << 5
    SEQ_ADJUST = 1 << 6
    SRC_NAT_DONE = 1 << 7
    DST_NAT_DONE = 1 << 8
    DYING = 1 << 9
    FIXED_TIMEOUT = 1 << 10
    TEMPLATE = 1 << 11
    NAT_CLASH = 1 << 12
    HELPER = 1 << 13
    OFFLOAD = 1 << 14
    HW_OFFLOAD = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowTuple:
    """One direction of a flow. ``protocol`` is its IPPROTO number; the ports are 0 for a protocol without ports."""

    source: Address
    destination: Address
    protocol: int
    source_port: int
    destination_port: int

    def reversed(self) -> "FlowTuple":
        """The tuple of an answer to this one, as long as nothing is translated."""
        return FlowTuple(
            source=self.destination,
            destination=self.source,
            protocol=self.protocol,
            source_port=self.destination_port,
            destination_port=self.source_port,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Packets and bytes (of the network layer and up) seen in one direction."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One conntrack entry.

    ``original`` is the first packet as it was sent, ``reply`` its answer as it arrives: where they aren't each other's
    reverse, the difference is the translation. ``zone`` is the original direction's, ``reply_zone`` the reply's.
    ``tcp_state`` is the kernel's name without its prefix, None for other protocols. ``timeout`` is what is left, in
    seconds. The counts are None unless net.netfilter.nf_conntrack_acct was on when the flow began. ``id`` is the
    kernel's hash of the entry's place in memory and its reply; 0 is unknown.
    """

    original: FlowTuple
    reply: FlowTuple
    mark: int
    zone: int
    reply_zone: int
    status: Status
    tcp_state: str | None
    timeout: int
    original_count: Count | None
    reply_count: Count | None
    id: int
