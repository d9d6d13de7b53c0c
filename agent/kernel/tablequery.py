"""Questions about our tables that go to the kernel directly: libnftables answers them badly, or twenty times slower.

Sources: include/uapi/linux/netfilter/nf_tables.h, net/netfilter/nf_tables_api.c.
"""

import errno
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import KernelError
from agent.kernel.attributes import attribute, attributes
from agent.kernel.rawnetlink import RawNetlink
from rulesets.model import Counter
from rulesets.netlink import constants as c

_INET = bytes((c.NFPROTO_INET, 0, 0, 0))  # struct nfgenmsg: family, version 0, resource 0
_ANY = bytes(4)
# include/uapi/linux/netfilter.h, NFPROTO_*.
_FAMILY_NAMES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_FAMILY_NUMBERS = {name: number for number, name in _FAMILY_NAMES.items()}
_FLAG_NAMES = {0x1: "dormant", c.NFT_TABLE_F_OWNER: "owner", c.NFT_TABLE_F_PERSIST: "persist"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """What the kernel says of a table itself: its flags by name, and the port id of the socket that owns it, or 0."""

    flags: tuple[str, ...]
    owner: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableName:
    """A table's family as nft calls it (its number where it has no name), and its name."""

    family: str
    name: str

    def __str__(self) -> str:
        return f"{self.family} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseChain:
    """A chain that the kernel calls: its table and name, its type, the number of its hook, and its priority there.

    `rules` is how many stand in it, `in_table` how many in all chains of its table; `drops`: its policy does.
    """

    table: TableName
    name: str
    type: str
    hook: int
    priority: int
    rules: int
    in_table: int
    drops: bool


def generation(netlink: RawNetlink) -> int:
    """Return the number of the namespace's ruleset: it changes with every change, of any table. 0.01 ms."""
    statement = "nft generation"
    for body in netlink.ask(_kind(c.NFT_MSG_GETGEN), _ANY, statement=statement).expect(statement):
        found = attributes(body, len(_ANY)).get(c.NFTA_GEN_ID)
        if found is not None:
            return int.from_bytes(found, "big")
    raise KernelError(statement=statement, said="no generation in the answer")


def family_name(number: int) -> str:
    """Return nft's name of a family of tables; its number where it has none."""
    return _FAMILY_NAMES.get(number, str(number))


def header_of(family: str) -> bytes:
    """Return the header of a message about a family of tables (struct nfgenmsg)."""
    return bytes((_FAMILY_NUMBERS[family], 0, 0, 0))


def table_state(netlink: RawNetlink, table: str, family: str = "inet") -> TableState | None:
    """Return a table's flags and owner, or None when there is no such table. 0.01 ms."""
    statement = f"nft list table {family} {table}"
    request = header_of(family) + attribute(c.NFTA_TABLE_NAME, _text(table))
    answer = netlink.ask(_kind(c.NFT_MSG_GETTABLE), request, statement=statement)
    if answer.errno == errno.ENOENT:
        return None
    (body,) = answer.expect(statement)
    told = attributes(body, len(_INET))
    flags = int.from_bytes(told.get(c.NFTA_TABLE_FLAGS, b""), "big")
    bits = (1 << number for number in range(32))
    return TableState(
        flags=tuple(_FLAG_NAMES.get(bit, hex(bit)) for bit in bits if flags & bit),
        owner=int.from_bytes(told.get(c.NFTA_TABLE_OWNER, b""), "big"),
    )


def tables(netlink: RawNetlink) -> tuple[TableName, ...]:
    """Return all tables of the namespace, whatever family they are of."""
    statement = "nft list tables"
    answer = netlink.dump(_kind(c.NFT_MSG_GETTABLE), _ANY, statement=statement).expect(statement)
    return tuple(table_of(body, attributes(body, len(_ANY))[c.NFTA_TABLE_NAME]) for body in answer)


def base_chains(netlink: RawNetlink) -> tuple[BaseChain, ...]:
    """Return the chains of all tables of the namespace that the kernel calls, whosever they are. 0.05 ms and more."""
    statement = "nft list chains"
    answer = netlink.dump(_kind(c.NFT_MSG_GETCHAIN), _ANY, statement=statement).expect(statement)
    in_table: dict[TableName, int] = {}
    found = []
    for body in answer:
        told = attributes(body, len(_ANY))
        table = table_of(body, told[c.NFTA_CHAIN_TABLE])
        rules = _number(told.get(c.NFTA_CHAIN_USE))  # a chain that the kernel calls is used by its rules alone
        in_table[table] = in_table.get(table, 0) + rules
        if c.NFTA_CHAIN_HOOK in told:
            found.append((table, told, rules))
    return tuple(_base_chain(table, told, rules, in_table[table]) for table, told, rules in found)


def _base_chain(table: TableName, told: dict[int, bytes], rules: int, in_table: int) -> BaseChain:
    place = attributes(told[c.NFTA_CHAIN_HOOK])
    return BaseChain(
        table=table,
        name=_name(told[c.NFTA_CHAIN_NAME]),
        type=_name(told.get(c.NFTA_CHAIN_TYPE, b"")),
        hook=_number(place.get(c.NFTA_HOOK_HOOKNUM)),
        priority=int.from_bytes(place.get(c.NFTA_HOOK_PRIORITY, b""), "big", signed=True),
        rules=rules,
        in_table=in_table,
        drops=told.get(c.NFTA_CHAIN_POLICY) == bytes(4),  # NF_DROP, include/uapi/linux/netfilter.h
    )


def counters(netlink: RawNetlink, table: str) -> tuple[Counter, ...]:
    """Return the named counters of an ``inet`` table as they are now, in the kernel's order; none when it isn't there.

    A dump that the kernel filters by table and kind: 0.05 ms.
    """
    statement = f"nft list counters table inet {table}"
    kind = c.NFT_OBJECT_COUNTER.to_bytes(4, "big")
    request = _INET + attribute(c.NFTA_OBJ_TABLE, _text(table)) + attribute(c.NFTA_OBJ_TYPE, kind)
    answer = netlink.dump(_kind(c.NFT_MSG_GETOBJ), request, statement=statement)
    told = (attributes(body, len(_INET)) for body in answer.expect(statement))
    return tuple(_counter(each) for each in told if each.get(c.NFTA_OBJ_TABLE) == _text(table))


def socket_cgroups(
    netlink: RawNetlink, table: str, family: str = "inet"
) -> dict[int, tuple[tuple[int, int] | None, ...]]:
    """Return what the rules of a table ask of the cgroups of sockets, by handle: level and number of each.

    None stands for one that asks anything but whether it is just that one. Rules that ask nothing of the kind are left
    out. A dump that the kernel filters by table: 0.1 ms.
    """
    statement = f"nft list table {family} {table}"
    request = header_of(family) + attribute(c.NFTA_RULE_TABLE, _text(table))
    found = {}
    for body in netlink.dump(_kind(c.NFT_MSG_GETRULE), request, statement=statement).expect(statement):
        told = attributes(body, len(_INET))
        asked = tuple(_asked_cgroups(told.get(c.NFTA_RULE_EXPRESSIONS, b"")))
        if told.get(c.NFTA_RULE_TABLE) == _text(table) and asked:
            found[int.from_bytes(told[c.NFTA_RULE_HANDLE], "big")] = asked
    return found


def _asked_cgroups(expressions: bytes) -> Iterator[tuple[int, int] | None]:
    listed = [attributes(each) for each in elements(expressions)]
    for told, after in zip(listed, [*listed[1:], {}], strict=True):
        if told.get(c.NFTA_EXPR_NAME) != b"socket\0":
            continue
        socket = {kind: int.from_bytes(value, "big") for kind, value in attributes(told[c.NFTA_EXPR_DATA]).items()}
        if socket.get(c.NFTA_SOCKET_KEY) == c.NFT_SOCKET_CGROUPV2:
            number = _compared(after, socket.get(c.NFTA_SOCKET_DREG))
            yield None if number is None else (socket.get(c.NFTA_SOCKET_LEVEL, 0), number)


def elements(listed: bytes) -> Iterator[bytes]:
    """Yield the payloads of a list, whose attributes are all of one type."""
    while len(listed) > 4:
        size = int.from_bytes(listed[:2], sys.byteorder)
        yield listed[4:size]
        listed = listed[max(4, size + 3 & ~3) :]


def _compared(told: dict[int, bytes], register: int | None) -> int | None:
    """Return the eight bytes to which an expression wants a register to be equal; None where it wants anything else."""
    if told.get(c.NFTA_EXPR_NAME) != b"cmp\0":
        return None
    asked = attributes(told[c.NFTA_EXPR_DATA])
    operator, source = (int.from_bytes(asked.get(kind, b""), "big") for kind in (c.NFTA_CMP_OP, c.NFTA_CMP_SREG))
    value = attributes(asked.get(c.NFTA_CMP_DATA, b"")).get(c.NFTA_DATA_VALUE, b"")
    same = operator == c.NFT_CMP_EQ and source == register and len(value) == 8
    return int.from_bytes(value, sys.byteorder) if same else None


def _counter(told: dict[int, bytes]) -> Counter:
    counted = attributes(told[c.NFTA_OBJ_DATA])
    return Counter(
        name=sys.intern(told[c.NFTA_OBJ_NAME].rstrip(b"\0").decode()),
        packets=int.from_bytes(counted[c.NFTA_COUNTER_PACKETS], "big"),
        bytes=int.from_bytes(counted[c.NFTA_COUNTER_BYTES], "big"),
    )


def table_of(body: bytes, name: bytes) -> TableName:
    """Return the table that a message is about: its family stands in the message's header."""
    return TableName(family=family_name(body[0]), name=_name(name))


def _name(told: bytes) -> str:
    return told.rstrip(b"\0").decode(errors="replace")


def _number(told: bytes | None) -> int:
    return int.from_bytes(told or b"", "big")


def _kind(message: int) -> int:
    return c.NFNL_SUBSYS_NFTABLES << 8 | message


def _text(name: str) -> bytes:
    return name.encode() + b"\0"
