"""A namespace's tables from three sides: nft's listing, the agent's reading, and the kernel's own bytes."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from agent.kernel import batches
from agent.kernel.nftables import Tables
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from netns_tests.namespace import Namespace
from netns_tests.nft_context import Nft
from rulesets.diff import Plan
from rulesets.model import Ruleset
from rulesets.netlink import Batch, encode
from rulesets.netlink import constants as c
from tests import scenarios, variants

__all__ = ["GETTABLE", "GOLDENS", "POD", "Place", "counts", "opened"]

GOLDENS = {each.name: each.ruleset for each in scenarios.anywhere()} | {"everything": variants.ruleset(by_nft=True)}
POD = GOLDENS["dual-stack"]
GETTABLE = c.NFNL_SUBSYS_NFTABLES << 8 | 1
GETSETELEM = c.NFNL_SUBSYS_NFTABLES << 8 | 13
GETGEN = c.NFNL_SUBSYS_NFTABLES << 8 | 16
DUMPED = {"chains": 4, "rules": 7, "sets": 10, "counters": 19}  # NFT_MSG_GETCHAIN and so on
HANDLES = {"chains": {2}, "rules": {3, 6}, "sets": {10, 16}, "counters": {6}}  # numbers that the kernel gives itself


@dataclass
class Place:
    """A namespace with nft's view of it and a kept socket of Weir's."""

    namespace: Namespace
    nft: Nft
    netlink: RawNetlink
    tables: Tables

    @classmethod
    @contextmanager
    def open(cls, namespace: Namespace) -> Iterator[Self]:
        """Open a namespace's tables, to be closed again."""
        with opened(namespace) as netlink:
            tables = namespace.run(Tables)
            try:
                yield cls(namespace, Nft(namespace), netlink, tables)
            finally:
                tables.close()

    def flush(self) -> None:
        self.nft.load("flush ruleset")

    def text(self) -> str:
        return self.nft.list_text()

    def json(self) -> Any:
        return without_handles(json.loads(self.nft.list()))

    def read(self, table: str) -> Ruleset:
        found = self.tables.read(table)
        assert found is not None
        return found

    def send(self, plan: Plan, **how: Any) -> Batch:
        batch = encode(plan, **{"end_acknowledged": batches.acknowledges_end(self.netlink)} | how)
        batches.send(self.netlink, batch)
        return batch

    def make(self, ruleset: Ruleset, **how: Any) -> Batch:
        return self.send(Plan(actual=None, desired=ruleset), **how)

    def dump(self, table: str) -> dict[str, list[tuple[tuple[int, bytes], ...]]]:
        """Everything that the kernel tells of a table, as bytes."""
        told = {}
        for kind, message in DUMPED.items():
            bodies = self.netlink.dump(message | c.NFNL_SUBSYS_NFTABLES << 8, bytes((1, 0, 0, 0)), statement=kind)
            told[kind] = [tuple(flat(body[4:], HANDLES[kind])) for body in bodies.expect(kind)]
        name = table.encode() + b"\0"
        told["elements"] = []
        for each in self.read(table).sets:
            asked = named(1, name) + named(2, each.name.encode() + b"\0")
            answer = self.netlink.dump(GETSETELEM, bytes((1, 0, 0, 0)) + asked, statement="elements")
            lists = [dict(flat(body[4:], set()))[3] for body in answer.expect("elements")]
            # In an order of the kernel's own: it hashes them with a chance number.
            told["elements"].append(tuple(sorted(element for held in lists for element in flat(held, set()))))
        return told

    def generation(self) -> int:
        (body,) = self.netlink.ask(GETGEN, bytes(4), statement="generation").expect("generation")
        return int.from_bytes(body[8:12], "big")


def named(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", len(payload) + 4, kind) + payload + bytes(-len(payload) % 4)


def flat(data: bytes, ignored: set[int]) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if kind & 0x3FFF not in ignored:
            yield kind & 0x3FFF, data[at + 4 : at + length]
        at += length + 3 & ~3


def without_handles(shown: Any) -> Any:
    if isinstance(shown, dict):
        return {key: without_handles(value) for key, value in shown.items() if key not in ("handle", "metainfo")}
    return [without_handles(each) for each in shown] if isinstance(shown, list) else shown


def opened_here() -> RawNetlink:
    return RawNetlink(NETLINK_NETFILTER, feature="nf_tables", option="CONFIG_NF_TABLES")


def opened(namespace: Namespace) -> RawNetlink:
    return namespace.run(opened_here)


def thread_cookie() -> int:
    """The kernel's number for the calling thread's namespace."""
    with opened_here() as netlink:
        return netlink.cookie


def counts(ruleset: Ruleset) -> dict[str, tuple[int, int]]:
    return {each.name: (each.packets, each.bytes) for each in ruleset.counters}
