"""Names in rules that libnftables can't print, found before it is let near them.

libnftables 1.0.6 makes JSON of what a rule compares an interface's name with, whatever bytes it is: what isn't UTF-8
ends the process (json.c, relational_expr_json), or is left out of an anonymous set. Whoever may change a namespace's
rules could so end every process that looks at them.

Sources: include/uapi/linux/netfilter/nf_tables.h, net/netfilter/nft_*.c (which attribute is the register).
"""

import re
import struct
from collections.abc import Iterator

from agent.kernel.attributes import attribute, attributes
from agent.kernel.rawnetlink import RawNetlink
from agent.kernel.tablequery import elements, header_of
from rulesets.netlink import constants as c

# By the name of an expression: the attribute with the register that it writes, and that of the register it compares.
_WRITTEN = {
    **dict.fromkeys(("payload", "ct", "exthdr", "fib", "rt", "numgen", "immediate", "osf", "xfrm"), 1),
    **dict.fromkeys(("socket", "hash", "bitwise", "byteorder", "tunnel"), 2),
    "lookup": 3,
}
_COMPARED = {"cmp": (1, (3,)), "range": (1, (3, 4))}
_LOOKUP_SET, _LOOKUP_SREG, _LOOKUP_SET_ID = 1, 2, 4
# What meta loads as a name (iifname, oifname, those of bridges and masters, kinds), and ct (the name of a helper).
_NAMED = {"meta": frozenset((6, 7, 17, 18, 26, 27, 34)), "ct": frozenset((6,))}
_ELEMENTS, _KEY, _SET_NAME = 3, 1, 2  # NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_SET
_GET_ELEMENTS = 13  # NFT_MSG_GETSETELEM
_NAME_SIZE = 16  # IFNAMSIZ
# Of a rule without these bytes, which is most, nothing else is looked at: the key of a load, attribute 2 of both.
_LOADS = re.compile(re.escape(struct.pack("=HH", 8, 2)) + rb"\0\0\0[\x06\x07\x11\x12\x1a\x1b\x22]")


def unprintable(netlink: RawNetlink, table: str, family: str = "inet") -> bytes | None:
    """Return a name in a rule of a table that libnftables must not be asked to print; None when there is none.

    A dump of the rules, of which only those that load a name are looked at: 0.1 ms for a pod's.
    """
    statement = f"nft list table {family} {table}"
    header, ours = header_of(family), table.encode() + b"\0"
    request = header + attribute(c.NFTA_RULE_TABLE, ours)
    kind = c.NFNL_SUBSYS_NFTABLES << 8 | c.NFT_MSG_GETRULE
    for body in netlink.dump(kind, request, statement=statement).expect(statement):
        if not _LOADS.search(body):
            continue
        told = attributes(body, len(header))
        if told.get(c.NFTA_RULE_TABLE) != ours:
            continue
        for name in _names(netlink, header, ours, told.get(c.NFTA_RULE_EXPRESSIONS, b"")):
            try:
                name.decode()
            except UnicodeDecodeError:
                return name
    return None


def _names(netlink: RawNetlink, header: bytes, table: bytes, expressions: bytes) -> Iterator[bytes]:
    """Yield what names are compared with in one rule, and looked up among."""
    named: set[bytes] = set()
    for each in elements(expressions):
        told = attributes(each)
        name = told.get(c.NFTA_EXPR_NAME, b"").rstrip(b"\0").decode(errors="replace")
        data = attributes(told.get(c.NFTA_EXPR_DATA, b""))
        if name in _COMPARED:
            register, values = _COMPARED[name]
            if data.get(register) in named:
                yield from (_text(attributes(data.get(kind, b"")).get(c.NFTA_DATA_VALUE, b"")) for kind in values)
        elif name == "lookup" and named:
            yield from _looked_up(netlink, header, table, data.get(_LOOKUP_SET, b""))
        _follow(named, name, data)


def _follow(named: set[bytes], name: str, data: dict[int, bytes]) -> None:
    """Keep which registers hold names."""
    if name == "meta":
        register, key = data.get(c.NFTA_META_DREG), data.get(c.NFTA_META_KEY, b"")
    else:
        register, key = data.get(_WRITTEN.get(name, 0)), data.get(c.NFTA_CT_KEY, b"")
    if register is None or (name in ("bitwise", "byteorder") and register in named):
        return
    named.discard(register)
    if int.from_bytes(key, "big") in _NAMED.get(name, ()):
        named.add(register)


def _looked_up(netlink: RawNetlink, header: bytes, table: bytes, name: bytes) -> Iterator[bytes]:
    """Yield the names among the elements of a set that rules look names up in."""
    statement = "nft list set"
    request = header + attribute(1, table) + attribute(_SET_NAME, name)
    answer = netlink.dump(c.NFNL_SUBSYS_NFTABLES << 8 | _GET_ELEMENTS, request, statement=statement)
    for body in answer.messages:
        for element in elements(attributes(body, len(header)).get(_ELEMENTS, b"")):
            key = attributes(attributes(element).get(_KEY, b"")).get(c.NFTA_DATA_VALUE, b"")
            if len(key) == _NAME_SIZE:
                yield _text(key)


def _text(value: bytes) -> bytes:
    return value.partition(b"\0")[0]
