"""The conntrack table of one namespace over ctnetlink (net/netfilter/nf_conntrack_netlink.c, conntrack(8)).

Raw netlink rather than pyroute2's NFCTSocket: that opens an event loop per socket and decodes an entry in 58 us, has no
retry of an interrupted dump, and 0.77 ms for a count is 10 us here. Its message classes alone would not help: what they
pack is the small part, `codec`.
"""

import errno
import socket
from collections.abc import Iterator

from agent.errors import FeatureMissing
from agent.kernel.attributes import attribute, attributes
from agent.kernel.closing import Closing
from agent.kernel.conntrack import codec
from agent.kernel.conntrack.entries import Entry, read_entry
from agent.kernel.conntrack.flow import Flow, FlowTuple
from agent.kernel.conntrack.stats import CTA_STATS_GLOBAL_ENTRIES, GET_STATS
from agent.kernel.rawnetlink import NETLINK_NETFILTER, NLM_F_CREATE, NLM_F_EXCL, Answer, RawNetlink

_NFNL_SUBSYS_CTNETLINK = 1 << 8
_NEW = _NFNL_SUBSYS_CTNETLINK | 0
_GET = _NFNL_SUBSYS_CTNETLINK | 1
_DELETE = _NFNL_SUBSYS_CTNETLINK | 2

_FEATURE = "conntrack entries over netlink"
_DUMP = "conntrack --dump"


class Conntrack(Closing):
    """A ctnetlink socket in the network namespace of the thread that makes it; used by one thread at a time.

    It pins the namespace until `close`. Packets meet the entries only where conntrack is active, that is where a rule
    of the namespace uses it (redirect, dnat, ct; an empty nat chain doesn't count): elsewhere `flows` is empty and a
    created entry only waits for its time-out.

    Every method raises `FeatureMissing` where the kernel has no ctnetlink, `PermissionMissing` without CAP_NET_ADMIN in
    the namespace and `KernelError` for any other refusal.
    """

    def __init__(self, netlink: RawNetlink | None = None) -> None:
        """Open a socket where the calling thread is, or use one that is open already (which `close` would close)."""
        self._netlink = netlink or RawNetlink(NETLINK_NETFILTER, feature=_FEATURE, option="CONFIG_NETFILTER_NETLINK")

    def close(self) -> None:
        """Close the socket; twice is once."""
        self._netlink.close()

    def flows(self, protocol: int | None = None) -> tuple[Flow, ...]:
        """The confirmed entries of both families, each once; ``protocol`` is an IPPROTO number, None means all.

        Not a snapshot: an entry that comes or goes meanwhile may be in or out. Unless there is nothing to list, the
        kernel walks a hash table that all namespaces share: 11 ms for 262,144 buckets. `find` a single entry instead.
        """
        if not self.count():
            return ()
        answer = self._netlink.dump(_GET, codec.header(socket.AF_UNSPEC), statement=_DUMP)
        found = {}
        for body in self._expect(answer, _DUMP):
            flow = codec.decode_flow(body, statement=_DUMP, protocol=protocol)
            if flow is not None:
                # A table that is resized under the dump may list an entry twice.
                found[flow.id, flow.original, flow.zone] = flow
        return tuple(found.values())

    def entries(self) -> Iterator[Entry]:
        """Yield what is counted of each entry, as `flows` does for all that is known of it: a third of the time."""
        if not self.count():
            return
        answer = self._netlink.dump(_GET, codec.header(socket.AF_UNSPEC), statement=_DUMP)
        for body in self._expect(answer, _DUMP):
            entry = read_entry(body, 0, len(body))
            if entry is not None:
                yield entry

    def find(self, flow_tuple: FlowTuple) -> Flow | None:
        """The entry that a packet with this tuple belongs to, in either direction, outside of any zone."""
        statement = f"conntrack --get {_options(flow_tuple)}"
        body = codec.header(codec.family(flow_tuple)) + codec.encode_tuple(codec.CTA_TUPLE_ORIG, flow_tuple)
        answer = self._netlink.ask(_GET, body, statement=statement)
        if answer.errno == errno.ENOENT:
            return None
        return codec.decode_flow(self._expect(answer, statement)[0], statement=statement)

    def create_established(self, original: FlowTuple, *, mark: int, timeout: int) -> bool:
        """Make the entry of an open TCP stream, so that rules see it as established and nothing redirects it.

        ``mark`` is the connection mark. ``timeout`` (seconds) holds until the first segment, which starts the kernel's
        own (nf_conntrack_tcp_timeout_established). True: made. False: an entry with this tuple, in either direction, is
        there already (EEXIST) and stays as it is.
        """
        if original.protocol != socket.IPPROTO_TCP:
            raise ValueError(f"only TCP has established streams: {original}")
        statement = (
            f"conntrack --create {_options(original)} --state ESTABLISHED --status ASSURED,SEEN_REPLY"
            f" --timeout {timeout} --mark {mark:#x}"
        )
        body = codec.header(codec.family(original)) + codec.encode_established(original, mark=mark, timeout=timeout)
        answer = self._netlink.ask(_NEW, body, statement=statement, flags=NLM_F_CREATE | NLM_F_EXCL)
        if answer.errno == errno.EEXIST:
            return False
        self._expect(answer, statement)
        return True

    def update_mark(self, flow: Flow, mark: int, mask: int) -> bool:
        """Set the bits of ``mask`` in the connection mark to those of ``mark``; the others keep their value.

        False: there is no such entry any more. ctnetlink knows an entry to be changed by its tuple only: a later flow
        of the same addresses and ports is changed as well as the one listed. `ValueError` for a mark outside its mask.
        """
        if mark & ~mask:
            raise ValueError(f"mark {mark:#x} has bits outside of mask {mask:#x}")
        statement = f"conntrack --update {_options(flow.original)} --mark {mark:#x}/{mask:#x}{_zones(flow)}"
        body = (
            codec.header(codec.family(flow.original))
            + codec.encode_identity(flow)
            + attribute(codec.CTA_MARK, mark.to_bytes(4, "big"))
            + attribute(codec.CTA_MARK_MASK, mask.to_bytes(4, "big"))
        )
        return self._existing(_NEW, body, statement)

    def delete(self, flow: Flow) -> bool:
        """Forget a flow; its next packet is new. False: it had gone already.

        With its ``id`` (0 means unknown) a later flow of the same addresses and ports is left alone, unless it happens
        to have been given the same memory: the id is a hash of that and of the reply's tuple (nf_ct_get_id).
        """
        statement = f"conntrack --delete {_options(flow.original)}{_zones(flow)}"
        body = codec.header(codec.family(flow.original)) + codec.encode_identity(flow)
        if flow.id:
            body += attribute(codec.CTA_ID, flow.id.to_bytes(4, "big"))
        return self._existing(_DELETE, body, statement)

    def count(self) -> int:
        """The number of entries of this namespace, unconfirmed ones included."""
        statement = "conntrack --count"
        messages = self._expect(self._ask_stats(statement), statement)
        return codec.number(attributes(messages[0], codec.HEADER).get(CTA_STATS_GLOBAL_ENTRIES))

    def _ask_stats(self, statement: str) -> Answer:
        return self._netlink.ask(GET_STATS, codec.header(socket.AF_UNSPEC), statement=statement)

    def _existing(self, kind: int, body: bytes, statement: str) -> bool:
        answer = self._netlink.ask(kind, body, statement=statement)
        if answer.errno == errno.ENOENT:
            return False
        self._expect(answer, statement)
        return True

    def _expect(self, answer: Answer, statement: str) -> tuple[bytes, ...]:
        # A subsystem that isn't there says EINVAL to everything (nfnetlink_rcv_msg); ctnetlink never does to this.
        if answer.errno == errno.EINVAL and self._ask_stats(statement).errno == errno.EINVAL:
            raise FeatureMissing(statement=statement, said=answer.said, feature=_FEATURE, option="CONFIG_NF_CT_NETLINK")
        return answer.expect(statement)


def _options(one: FlowTuple) -> str:
    """The tuple as conntrack(8) takes it."""
    family = "ipv4" if one.source.version == 4 else "ipv6"
    return (
        f"--family {family} --protonum {one.protocol} --src {one.source} --dst {one.destination}"
        f" --sport {one.source_port} --dport {one.destination_port}"
    )


def _zones(flow: Flow) -> str:
    if flow.zone == flow.reply_zone:
        return f" --zone {flow.zone}" if flow.zone else ""
    return f" --orig-zone {flow.zone}" if flow.zone else f" --reply-zone {flow.reply_zone}"
