"""All rules of a namespace by their handles, in the order in which packets meet them, and their texts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.errors import KernelError
from agent.kernel.attributes import attributes
from agent.kernel.nftables import Tables
from agent.kernel.rawnetlink import RawNetlink
from agent.kernel.tablequery import TableName, table_of
from rulesets.model.ruleset import NFT_NAME
from rulesets.netlink import constants as c

_ANY = bytes(4)
_LINE = re.compile(r"^\t\t(?P<text>.*\S) # handle (?P<handle>\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRule:
    """A rule: its handle, and its comment, which is the slug of one of Weir's."""

    handle: int
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The rules of every chain that has some, by table and name."""

    chains: Mapping[tuple[TableName, str], tuple[KnownRule, ...]] = field(default_factory=dict)

    def find(self, table: TableName, chain: str, handle: int) -> KnownRule | None:
        """Return a rule of a chain, or None where it isn't known."""
        return next((each for each in self.chains.get((table, chain), ()) if each.handle == handle), None)


def read_rules(netlink: RawNetlink) -> Rules:
    """Return the rules of all tables as they are now: one dump, in which the kernel keeps their order."""
    statement = "nft -a list ruleset"
    chains: dict[tuple[TableName, str], list[KnownRule]] = {}
    kind = c.NFNL_SUBSYS_NFTABLES << 8 | c.NFT_MSG_GETRULE
    for body in netlink.dump(kind, _ANY, statement=statement).expect(statement):
        told = attributes(body, len(_ANY))
        place = table_of(body, told.get(c.NFTA_RULE_TABLE, b"")), _name(told.get(c.NFTA_RULE_CHAIN, b""))
        handle = int.from_bytes(told.get(c.NFTA_RULE_HANDLE, b""), "big")
        comment = _comment(told.get(c.NFTA_RULE_USERDATA, b""))
        chains.setdefault(place, []).append(KnownRule(handle=handle, comment=comment))
    return Rules(chains={place: tuple(rules) for place, rules in chains.items()})


def rule_texts(table: TableName) -> dict[int, str]:
    """Return the rules of a table in the calling thread's namespace as nft shows them, by handle, those that it can."""
    if table.family not in ("inet", "ip", "ip6") or not NFT_NAME.fullmatch(table.name):
        return {}
    library = Tables()
    try:
        shown = library.numbered(table)
    except KernelError:
        return {}  # it went away meanwhile, or nft can't read it: the handle is told instead
    finally:
        library.close()
    return {int(found["handle"]): found["text"] for found in _LINE.finditer(shown)}


def _comment(userdata: bytes) -> str:
    at = 0
    while at + 2 <= len(userdata):
        kind, size = userdata[at], userdata[at + 1]
        if kind == c.NFTNL_UDATA_RULE_COMMENT:
            return _name(userdata[at + 2 : at + 2 + size])
        at += 2 + size
    return ""


def _name(told: bytes) -> str:
    return told.rstrip(b"\0").decode(errors="replace")
