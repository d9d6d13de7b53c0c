"""`Handle`: the one small edge to a namespace's kernel. What stands above it doesn't know how rules get there.

A handle keeps its sockets open, because closing one after a change costs a grace period of the kernel, and because an
open one answers without entering the namespace. An open one also pins the namespace: close it when the namespace goes.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from agent.errors import KernelError
from agent.kernel.netns import Netns, OpenNetns
from agent.kernel.nftables import Tables
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink, attributes
from rulesets.diff import Plan
from rulesets.model import Ruleset

_NFT_MSG_GETGEN = (10 << 8) | 16  # include/uapi/linux/netfilter/nf_tables.h; subsystem NFNL_SUBSYS_NFTABLES
_NFTA_GEN_ID = 1
_NFGENMSG = bytes(4)  # struct nfgenmsg: any family, version 0, resource 0
_NFNLGRP_NFTABLES = 7  # include/uapi/linux/netfilter/nfnetlink.h
# Multicast groups of include/uapi/linux/rtnetlink.h: what can take our routes and rules away, or the family itself.
_RTNLGRP = {"link": 1, "ipv4_route": 7, "ipv4_rule": 8, "ipv6_route": 11, "ipv6_rule": 19}
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1


class Handle:
    """One open namespace. Any thread may use it, one at a time: it locks."""

    def __init__(self, netns: Netns) -> None:
        """Open a namespace and what is needed to speak to its kernel. Raises what `OpenNetns` and `Tables` raise."""
        self.netns = OpenNetns(netns)
        self._lock = threading.RLock()
        self._generation: RawNetlink | None = None
        self._subscriptions: tuple[socket.socket, ...] = ()
        try:
            with self.netns.entered():
                self._tables = Tables()
                self._generation = RawNetlink(
                    NETLINK_NETFILTER, feature="nf_tables over netlink", option="CONFIG_NF_TABLES"
                )
                self.cookie = self.netns.cookie()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Be in the namespace with the calling thread, for the functions that act where they are called."""
        with self._lock:
            self.netns.check()
            with self.netns.entered():
                yield

    def read(self, table: str) -> Ruleset | None:
        """Return our table as the kernel lists it, or None when it isn't there."""
        with self._lock:
            return self._tables.read(table)

    def apply(self, plan: Plan, *, flags: tuple[str, ...] = ()) -> None:
        """Carry out a plan in one transaction, after checking that the namespace is still the one that was opened."""
        with self._lock:
            self.netns.check()
            self._tables.apply(plan, flags=flags)

    def generation(self) -> int:
        """Return the number of the namespace's ruleset: it changes with every change, of any table."""
        with self._lock:
            if self._generation is None:
                raise KernelError(statement="nft generation", said="the handle is closed")
            answer = self._generation.ask(_NFT_MSG_GETGEN, _NFGENMSG, statement="nft generation")
        for body in answer.expect("nft generation"):
            found = attributes(body, len(_NFGENMSG)).get(_NFTA_GEN_ID)
            if found is not None:
                return int.from_bytes(found, "big")
        raise KernelError(statement="nft generation", said="no generation in the answer")

    def subscribe(self) -> tuple[socket.socket, ...]:
        """Return sockets that become readable when rules, routes or interfaces of the namespace change.

        What can be read from them says only that something changed; on ENOBUFS assume so too. Closed with the handle.
        """
        with self._lock:
            if not self._subscriptions:
                with self.netns.entered():
                    tables = _listening(NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,))
                    routes = _listening(socket.NETLINK_ROUTE, tuple(_RTNLGRP.values()))
                self._subscriptions = (tables, routes)
            return self._subscriptions

    def close(self) -> None:
        """Let go of the namespace. Twice is once."""
        with self._lock:
            for each in self._subscriptions:
                each.close()
            self._subscriptions = ()
            if self._generation is not None:
                self._generation.close()
                self._generation = None
            # The libnftables context closes its socket when it is freed.
            self.__dict__.pop("_tables", None)
            self.netns.close()


def _listening(protocol: int, groups: tuple[int, ...]) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_NETLINK, kind, protocol)
    try:
        # An unbound netlink socket gets no multicast at all, and no error either.
        opened.bind((0, 0))
        for group in groups:
            opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
    except OSError as error:
        opened.close()
        raise KernelError(statement=f"join netlink groups {groups}", said=str(error)) from None
    return opened
