"""What one namespace's connection tracking counts: two questions over a kept socket, nothing is walked or listed.

Sources: ctnetlink_stat_ct and ctnetlink_stat_ct_cpu in net/netfilter/nf_conntrack_netlink.c. Both work without
CONFIG_NF_CONNTRACK_PROCFS, which /proc/net/stat/nf_conntrack needs and distributions leave out.
"""

import errno
import socket
import struct
from dataclasses import dataclass

from agent.errors import FeatureMissing
from agent.kernel.attributes import attributes
from agent.kernel.conntrack.codec import HEADER, header, number
from agent.kernel.rawnetlink import RawNetlink

GET_STATS_CPU, GET_STATS = 1 << 8 | 4, 1 << 8 | 5
# include/uapi/linux/netfilter/nfnetlink_conntrack.h, enum ctattr_stats_global and ctattr_stats_cpu.
CTA_STATS_GLOBAL_ENTRIES, _CTA_STATS_GLOBAL_MAX_ENTRIES = 1, 2
_INVALID, _INSERT_FAILED, _DROP, _EARLY_DROP = 4, 9, 10, 11
_NUMBER = struct.Struct("=2xH")  # an attribute's header; each has a number of 32 bits
_PER_PROCESSOR = struct.Struct("!I")
_COUNT, _STATISTICS = "conntrack --count", "conntrack --stats"
_FEATURE = "conntrack counts over netlink"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Counts of one namespace.

    `entries` are those of the table, unconfirmed ones included, and `maximum` is how many there may be (0 is no limit,
    None before Linux 4.18). The others count since the namespace was made: entries that found their place taken,
    packets dropped for want of room or memory, entries thrown out early to make room, packets that fit no connection.
    """

    entries: int
    maximum: int | None
    insert_failed: int
    drops: int
    early_drops: int
    invalid: int


def read_stats(netlink: RawNetlink) -> Stats:
    """Return the counts of the socket's namespace. Raises `FeatureMissing` without ctnetlink, or `KernelError`."""
    answer = netlink.ask(GET_STATS, header(socket.AF_UNSPEC), statement=_COUNT)
    if answer.errno == errno.EINVAL:  # what a subsystem that isn't there says to everything (nfnetlink_rcv_msg)
        raise FeatureMissing(statement=_COUNT, said=answer.said, feature=_FEATURE, option="CONFIG_NF_CT_NETLINK")
    (body,) = answer.expect(_COUNT)
    found = attributes(body, HEADER)
    most = found.get(_CTA_STATS_GLOBAL_MAX_ENTRIES)
    totals = dict.fromkeys((_INVALID, _INSERT_FAILED, _DROP, _EARLY_DROP), 0)
    processors = netlink.dump(GET_STATS_CPU, header(socket.AF_UNSPEC), statement=_STATISTICS).expect(_STATISTICS)
    for each in processors:
        for at in range(HEADER, len(each) - 7, 8):
            kind = _NUMBER.unpack_from(each, at)[0]
            if kind in totals:
                totals[kind] += _PER_PROCESSOR.unpack_from(each, at + 4)[0]
    return Stats(
        entries=number(found.get(CTA_STATS_GLOBAL_ENTRIES)),
        maximum=None if most is None else number(most),
        insert_failed=totals[_INSERT_FAILED],
        drops=totals[_DROP],
        early_drops=totals[_EARLY_DROP],
        invalid=totals[_INVALID],
    )
