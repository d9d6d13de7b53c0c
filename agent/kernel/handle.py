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

    def __init__(self, netns: Netns, *, flags: tuple[str, ...] = ()) -> None:
        """Open a namespace and what is needed to speak to its kernel. Raises what `OpenNetns` and `Tables` raise.

        `flags` are those of the tables that it writes: with ``owner`` they go when it is closed, or its process dies.
        """
        self.netns = OpenNetns(netns)
        self._flags = flags
        self._lock = threading.RLock()
        self._tables: Tables | None = None
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
            return self._open_tables(f"nft list table inet {table}").read(table)

    def apply(self, plan: Plan) -> None:
        """Carry out a plan in one transaction, after checking that the namespace is still the one that was opened."""
        with self._lock:
            self.netns.check()
            self._open_tables("nft -f -").apply(plan, flags=self._flags)

    def disown(self, table: str) -> None:
        """Turn a table that would go with this handle into one that stays, in one transaction."""
        with self._lock:
            self.netns.check()
            self._open_tables("nft -f -").disown(table)
            self._flags = ()

    def _open_tables(self, statement: str) -> Tables:
        if self._tables is None:
            raise KernelError(statement=statement, said="the handle is closed")
        return self._tables

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
            self._open_tables("nft monitor")
            if not self._subscriptions:
                with self.netns.entered():
                    tables = _listening(NETLINK_NETFILTER, (_NFNLGRP_NFTABLES,))
                    try:
                        routes = _listening(socket.NETLINK_ROUTE, tuple(_RTNLGRP.values()))
                    except BaseException:
                        tables.close()
                        raise
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
            if self._tables is not None:
                self._tables.close()
                self._tables = None
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
