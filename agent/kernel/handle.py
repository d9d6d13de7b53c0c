"""`Handle`: the one small edge to a namespace's kernel. What stands above it doesn't know how rules get there.

A handle writes with a netlink socket of its own, which it keeps: closing one after a change costs a grace period of the
kernel, and one that is open answers without the namespace being entered. It also pins the namespace: close the handle
when the namespace goes. It reads with libnftables, an independent witness: it knows nothing of how rules get there.
"""

import dataclasses
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from agent.errors import AnswerLost, GenerationMoved, KernelError, TableHeld
from agent.kernel import batches, portid, tablequery
from agent.kernel.known import Known, after, alike, one_of
from agent.kernel.netns import Netns, OpenNetns
from agent.kernel.nftables import Tables, binding
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.kernel.subscription import subscribed
from rulesets.diff import Plan
from rulesets.model import Counter, Ruleset, Set
from rulesets.netlink import ORPHAN, OWNED, encode, encode_elements

_OWNER_ONLY = ("owner",)
_ATTEMPTS = 5  # to write while others change tables of theirs


class Handle:
    """One open namespace. Any thread may use it, one at a time: it locks."""

    __slots__ = ("_flags", "_kept", "_known", "_lock", "_netlink", "_subscriptions", "cookie", "netns")

    def __init__(self, netns: Netns, *, flags: tuple[str, ...] | None = None) -> None:
        """Open a namespace and what is needed to speak to its kernel.

        Raises `LibraryMissing`, and what `OpenNetns` and `RawNetlink` raise.

        `flags` are those of the tables that it writes (`OWNED`; with ``owner`` alone they go when it is closed, or its
        process dies). None is no ownership: new tables have no flags, and one that outlived its owner stays so.
        """
        binding()  # rules that can't be read back are not to be written
        self.netns = OpenNetns(netns)
        self._flags = flags
        self._lock = threading.RLock()
        self._netlink: RawNetlink | None = None
        self._kept: Tables | None = None
        self._known: dict[str, Known] = {}
        self._subscriptions: tuple[socket.socket, ...] = ()
        try:
            with self.netns.entered():
                self._netlink = _opened()
            self.cookie = self._netlink.cookie
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
        """Return our table as libnftables lists it, or None when it isn't there."""
        with self._lock:
            netlink = self._open(f"nft list table inet {table}")
            generation = tablequery.generation(netlink)
            state = tablequery.table_state(netlink, table)
            found = None
            if state is not None:
                tables = self._witness()
                try:
                    found = tables.read(table)
                finally:
                    if tables is not self._kept:
                        tables.close()
            # A table that goes with its owner does so without a new generation.
            if state is not None and "owner" in state.flags and "persist" not in state.flags:
                self._known.pop(table, None)
            else:
                self._known[table] = Known(generation, one_of(found))
            return found

    def _witness(self) -> Tables:
        """Return libnftables in this namespace: for a moment in a pod's, where it would be most of the memory.

        Closing it waits for the kernel while somebody changes rules, as on a node somebody always does: kept there.
        """
        if self._kept is not None:
            return self._kept
        with self.netns.entered():
            tables = Tables()
        if self.netns.netns.is_host:
            self._kept = tables
        return tables

    def look(self, table: str) -> Ruleset | None:
        """Return our table as it was last read or written, if no rule of the namespace has changed since; else read it.

        What its counters have counted is not looked at: `counters` tells. 0.01 ms where nothing has changed.
        """
        with self._lock:
            known, generation = self._known.get(table), self.generation()
            if known is not None and known.generation != generation:
                netlink = self._open(f"nft list table inet {table}")
                state = tablequery.table_state(netlink, table)
                # Others have changed theirs; ours nobody else can.
                owned = state is not None and state.owner == netlink.port
                known = Known(generation, known.ruleset) if owned else None
                if known is not None:
                    self._known[table] = known
            return self.read(table) if known is None else known.ruleset

    def counters(self, table: str) -> tuple[Counter, ...]:
        """Return the counters of our table as they are now; none when it isn't there."""
        with self._lock:
            return tablequery.counters(self._open(f"nft list counters table inet {table}"), table)

    def apply(self, plan: Plan) -> None:
        """Carry out a plan in one transaction, after checking that the namespace is still the one that was opened.

        Raises `GenerationMoved` when our table is no longer the one that was looked at, `TableHeld` when another
        process owns it, naming that, and `KernelError` naming the rule otherwise; either way nothing has changed.
        """
        with self._lock:
            self.netns.check()
            if plan:
                self._write(plan)

    def change_elements(self, table: str, *, taken: Iterable[Set], added: Iterable[Set]) -> None:
        """Take elements out of our table's sets, then put others in, as `encode_elements` says, in one transaction.

        Nothing is read beforehand: 0.1 ms, however many there are. Raises as `apply` does; `AnswerLost` where it may
        have been carried out.
        """
        with self._lock:
            self.netns.check()
            netlink = self._open(f"nft -f - (table inet {table})")
            batch = encode_elements(table, taken=taken, added=added, end_acknowledged=_ends_acknowledged())
            self._known.pop(table, None)
            try:
                batches.send(netlink, batch)
            except TableHeld as held:
                raise self._named(held, table, tablequery.table_state(netlink, table)) from None

    def hold(self, ruleset: Ruleset) -> bool:
        """Have a table that is as wanted owned, where this handle's flags ask for it; tell whether it wasn't so yet.

        Rules and counters go on. Raises as `apply` does.
        """
        with self._lock:
            if self._flags != OWNED:
                return False
            self.netns.check()
            netlink = self._open(f"nft list table inet {ruleset.table}")
            state = tablequery.table_state(netlink, ruleset.table)
            if state is None or state.owner == netlink.port:
                return False
            if state.owner:
                # Where it is owned as this handle would own it, there is nothing to send that the kernel would refuse.
                held = TableHeld(statement=f"nft add table inet {ruleset.table}", said="EPERM")
                raise self._named(held, ruleset.table, state)
            self._write(Plan(actual=ruleset, desired=ruleset))
            self._known.pop(ruleset.table, None)  # no plan tells of this change: the next look is libnftables'
            return True

    def disown(self, table: str) -> None:
        """Turn a table that would go with this handle into one that stays, in one transaction."""
        with self._lock:
            self.netns.check()
            self._flags = ()
            found = self.read(table)
            if found is not None:
                self._write(Plan(actual=found, desired=found))

    def owner(self, table: str) -> int:
        """Return the port id of the socket that owns our table, where it is another one than this handle's; else 0."""
        with self._lock:
            netlink = self._open(f"nft list table inet {table}")
            state = tablequery.table_state(netlink, table)
            return state.owner if state is not None and state.owner != netlink.port else 0

    @contextmanager
    def netfilter(self) -> Iterator[RawNetlink]:
        """Have the kept socket for other questions to netfilter, as long as the block lasts."""
        with self._lock:
            yield self._open("netfilter")

    def base_chains(self) -> tuple[tablequery.BaseChain, ...]:
        """Return the chains that the kernel calls in the namespace, whosever they are."""
        with self._lock:
            return tablequery.base_chains(self._open("nft list chains"))

    @property
    def port(self) -> int:
        """The port id of the socket that writes: messages about a change name whose it was."""
        return self._open("getsockname").port

    def generation(self) -> int:
        """Return the number of the namespace's ruleset: it changes with every change, of any table."""
        with self._lock:
            return tablequery.generation(self._open("nft generation"))

    def _open(self, statement: str) -> RawNetlink:
        if self._netlink is None:
            raise KernelError(statement=statement, said="the handle is closed")
        return self._netlink

    def _write(self, plan: Plan) -> None:
        """Carry out a plan on a table that is just what was looked at, if it was: whoever changes others is no matter.

        On the node somebody always changes rules, so there the generation says nothing.
        """
        if self.netns.netns.is_host:
            return self._send(plan, None)
        for _ in range(_ATTEMPTS):
            known = self._known.get(plan.table)
            looked_at = known is not None and alike(known.ruleset, plan.actual)
            try:
                return self._send(plan, known.generation if known is not None and looked_at else None)
            except GenerationMoved:
                if not alike(self.look(plan.table), plan.actual):
                    raise
        return self._send(plan, None)

    def _send(self, plan: Plan, generation: int | None) -> None:
        netlink = self._open(f"nft -f - (table inet {plan.table})")
        # A table that wasn't there has no flags; should it be there by now, the kernel says so.
        state = None if plan.actual is None else tablequery.table_state(netlink, plan.table)
        found = state.flags if state else ()
        wanted = self._flags if self._flags is not None else ORPHAN if found == ORPHAN else ()
        if plan.actual is not None and found != wanted:
            if state is None:
                raise GenerationMoved(statement=f"nft list table inet {plan.table}", said="it has gone since")
            # Where it is made anew, what it has counted until now goes on.
            counted = {each.name: each for each in tablequery.counters(netlink, plan.table)}
            counters = tuple(counted.get(each.name, each) for each in plan.actual.counters)
            actual = dataclasses.replace(plan.actual, counters=counters)
            plan = Plan(actual=actual, desired=plan.desired)
        batch = encode(plan, flags=wanted, found=found, end_acknowledged=_ends_acknowledged())
        if not batch:
            return
        self._known.pop(plan.table, None)
        try:
            batches.send(netlink, batch, generation=generation)
        except AnswerLost:
            if self.read(plan.table) != plan.desired:
                raise
            return
        except TableHeld as held:
            raise self._named(held, plan.table, tablequery.table_state(netlink, plan.table)) from None
        if generation is not None and wanted != _OWNER_ONLY:
            self._known[plan.table] = Known(after(generation), plan.desired)

    def _named(self, held: TableHeld, table: str, state: tablequery.TableState | None) -> TableHeld:
        """Return the error with whose the table is."""
        if state is None or not state.owner:
            return held
        with self.netns.entered():
            whose = portid.owner(state.owner)
        said = f"{held.said.partition(':')[0]}: table inet {table} is owned by {whose}"
        return TableHeld(statement=held.statement, said=said)

    def subscribe(self) -> tuple[socket.socket, ...]:
        """Return sockets that become readable when rules, routes or interfaces of the namespace change.

        What can be read from them says only that something changed; on ENOBUFS assume so too. Closed with the handle.
        """
        with self._lock:
            self._open("nft monitor")
            if not self._subscriptions:
                with self.netns.entered():
                    self._subscriptions = subscribed()
            return self._subscriptions

    def close(self) -> None:
        """Let go of the namespace: 6 to 25 ms after a change, so not where something waits. Twice is once."""
        with self._lock:
            for each in self._subscriptions:
                each.close()
            for held in (self._netlink, self._kept):
                if held is not None:
                    held.close()
            self._subscriptions, self._netlink, self._kept = (), None, None
            self.netns.close()


@cache
def _ends_acknowledged() -> bool:
    """Tell whether this kernel acknowledges the end of a batch; asked once."""
    with _opened() as netlink:
        return batches.acknowledges_end(netlink)


def _opened() -> RawNetlink:
    return RawNetlink(NETLINK_NETFILTER, feature="nf_tables over netlink", option="CONFIG_NF_TABLES")
