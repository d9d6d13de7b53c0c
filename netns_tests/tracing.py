"""Which rules a packet really meets, as the kernel's own trace tells: rules that matched, in order.

Source: include/uapi/linux/netfilter/nf_tables.h, NFTA_TRACE_*; net/netfilter/nf_tables_trace.c.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from agent.kernel.attributes import attributes
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.world import eventually

__all__ = ["Trace", "traced"]

_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTRACE = 12, 270, 1, 9
_NFT_MSG_TRACE = 10 << 8 | 17
_TABLE, _CHAIN, _HANDLE, _TYPE = 1, 2, 3, 4
_RULE = 3
_FAMILIES = {1: "inet", 2: "ip", 10: "ip6"}
TABLE = "test-trace"

Met = tuple[str, str, int]


class Trace:
    """The rules that traced packets have met, each as table, chain and handle."""

    def __init__(self, opened: socket.socket) -> None:
        self._socket = opened
        self._met: list[Met] = []

    def met(self, at_least: int) -> list[Met]:
        """Return what was met, once it is so many rules, or the deadline is over; and forget it."""
        with suppress(AssertionError):
            eventually(lambda: len(self._read()) >= at_least, "the packet was traced", slow(10.0))
        found, self._met = self._read(), []
        return found

    def _read(self) -> list[Met]:
        while True:
            try:
                data = self._socket.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return self._met
            self._met += _rules(data)


def _rules(data: bytes) -> Iterator[Met]:
    while len(data) >= 16:
        size = int.from_bytes(data[:4], "little")
        kind, body = int.from_bytes(data[4:6], "little"), data[16:size]
        data = data[size + 3 & ~3 :]
        told = attributes(body, 4)
        if kind != _NFT_MSG_TRACE or int.from_bytes(told[_TYPE], "big") != _RULE or _HANDLE not in told:
            continue  # the end of a chain is told as a rule without a handle
        table = told[_TABLE].rstrip(b"\0").decode()
        if table != TABLE:
            chain = told[_CHAIN].rstrip(b"\0").decode()
            yield f"{_FAMILIES[body[0]]} {table}", chain, int.from_bytes(told[_HANDLE], "big")


@contextmanager
def traced(namespace: Namespace, match: str) -> Iterator[Trace]:
    """Have the kernel trace the packets that match, where they enter the stack."""
    chains = "".join(
        f"chain {hook} {{\ntype filter hook {hook} priority -400\n{match} meta nftrace set 1\n}}\n"
        for hook in ("prerouting", "output")
    )

    def listening() -> socket.socket:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        opened.bind((0, 0))
        opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFNLGRP_NFTRACE)
        return opened

    namespace.nft(f"table inet {TABLE} {{\n{chains}}}")
    opened = namespace.run(listening)
    try:
        yield Trace(opened)
    finally:
        opened.close()
        namespace.command("nft", "delete", "table", "inet", TABLE)
