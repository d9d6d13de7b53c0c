"""Tables, chains, rules, counters and sets as the bodies of nf_tables messages (what follows struct nfgenmsg)."""

from collections.abc import Iterator
from functools import lru_cache

from rulesets.model import (
    INET_SERVICE,
    IPV4_ADDR,
    IPV4_ADDR_PORT,
    IPV6_ADDR,
    IPV6_ADDR_PORT,
    AddressPort,
    AddressRange,
    Chain,
    Counter,
    Element,
    KeyType,
    Rule,
    Set,
)
from rulesets.netlink import constants as c
from rulesets.netlink.attributes import LONGEST, attribute, be32, host32, nested, text
from rulesets.netlink.rules import expressions
from rulesets.vocabulary import Hook, Policy, PortRange

FLAGS = {"dormant": c.NFT_TABLE_F_DORMANT, "owner": c.NFT_TABLE_F_OWNER, "persist": c.NFT_TABLE_F_PERSIST}
_HOOKS = {
    Hook.PREROUTING: c.NF_INET_PRE_ROUTING,
    Hook.INPUT: c.NF_INET_LOCAL_IN,
    Hook.FORWARD: c.NF_INET_FORWARD,
    Hook.OUTPUT: c.NF_INET_LOCAL_OUT,
    Hook.POSTROUTING: c.NF_INET_POST_ROUTING,
}
_POLICIES = {Policy.ACCEPT: c.NF_ACCEPT, Policy.DROP: c.NF_DROP}
# nft's number of each type, and the length of a key. Each part of a concatenation fills whole registers of four bytes.
_KEYS: dict[KeyType, tuple[int, int]] = {
    IPV4_ADDR: (c.TYPE_IPADDR, 4),
    IPV6_ADDR: (c.TYPE_IP6ADDR, 16),
    INET_SERVICE: (c.TYPE_INET_SERVICE, 2),
    IPV4_ADDR_PORT: (c.TYPE_IPADDR << c.TYPE_BITS | c.TYPE_INET_SERVICE, 4 + 4),
    IPV6_ADDR_PORT: (c.TYPE_IP6ADDR << c.TYPE_BITS | c.TYPE_INET_SERVICE, 16 + 4),
}
_CONCATENATIONS = (IPV4_ADDR_PORT, IPV6_ADDR_PORT)


def table(name: str, flags: tuple[str, ...]) -> bytes:
    """Return a table with its flags."""
    return text(c.NFTA_TABLE_NAME, name) + be32(c.NFTA_TABLE_FLAGS, sum(FLAGS[flag] for flag in flags))


def table_name(name: str) -> bytes:
    """Return the name of a table to delete."""
    return text(c.NFTA_TABLE_NAME, name)


def chain(table: str, each: Chain) -> bytes:
    """Return a base chain without its rules."""
    hook = be32(c.NFTA_HOOK_HOOKNUM, _HOOKS[each.hook]) + be32(c.NFTA_HOOK_PRIORITY, each.priority & 0xFFFFFFFF)
    return b"".join((
        chain_name(table, each.name),
        text(c.NFTA_CHAIN_TYPE, each.type),
        be32(c.NFTA_CHAIN_POLICY, _POLICIES[each.policy]),
        nested(c.NFTA_CHAIN_HOOK, hook),
    ))  # fmt: skip


def chain_name(table: str, name: str) -> bytes:
    """Return the name of a chain to delete."""
    return text(c.NFTA_CHAIN_TABLE, table) + text(c.NFTA_CHAIN_NAME, name)


@lru_cache(1024)
def rule(table: str, chain: str, each: Rule) -> bytes:
    """Return a rule, with its slug as the comment that nft shows."""
    return b"".join((
        text(c.NFTA_RULE_TABLE, table),
        text(c.NFTA_RULE_CHAIN, chain),
        nested(c.NFTA_RULE_EXPRESSIONS, expressions(each)),
        attribute(c.NFTA_RULE_USERDATA, _comment(c.NFTNL_UDATA_RULE_COMMENT, each.slug)),
    ))  # fmt: skip


def every_rule(table: str) -> bytes:
    """Return what names all rules of all chains of a table."""
    return text(c.NFTA_RULE_TABLE, table)


def counter(table: str, each: Counter) -> bytes:
    """Return a named counter with what it starts from."""
    packets = attribute(c.NFTA_COUNTER_PACKETS, each.packets.to_bytes(8, "big"))
    size = attribute(c.NFTA_COUNTER_BYTES, each.bytes.to_bytes(8, "big"))
    return counter_name(table, each.name) + nested(c.NFTA_OBJ_DATA, size + packets)


def counter_name(table: str, name: str) -> bytes:
    """Return the name of a counter to delete."""
    named = text(c.NFTA_OBJ_TABLE, table) + text(c.NFTA_OBJ_NAME, name)
    return named + be32(c.NFTA_OBJ_TYPE, c.NFT_OBJECT_COUNTER)


def new_set(table: str, each: Set, number: int) -> bytes:
    """Return a set without its elements. `number` tells the new sets of one batch apart."""
    kind, length = _KEYS[each.key]
    return b"".join((
        set_name(table, each.name),
        be32(c.NFTA_SET_FLAGS, c.NFT_SET_INTERVAL if each.interval else 0),
        be32(c.NFTA_SET_KEY_TYPE, kind),
        be32(c.NFTA_SET_KEY_LEN, length),
        be32(c.NFTA_SET_ID, number),
        attribute(c.NFTA_SET_USERDATA, _set_userdata(each.key)),
    ))  # fmt: skip


def set_name(table: str, name: str) -> bytes:
    """Return the name of a set to delete."""
    return text(c.NFTA_SET_TABLE, table) + text(c.NFTA_SET_NAME, name)


def every_element(table: str, name: str) -> bytes:
    """Return what names all elements of a set."""
    return text(c.NFTA_SET_ELEM_LIST_TABLE, table) + text(c.NFTA_SET_ELEM_LIST_SET, name)


def elements(table: str, each: Set) -> Iterator[tuple[bytes, tuple[Element, ...]]]:
    """Yield messages that hold a set's elements, each with those that begin in it: a list ends at 64 KiB."""
    list_of = every_element(table, each.name)
    keys: list[bytes] = []
    told: list[Element] = []
    size = 0
    # The kernel has an interval set start with what isn't in it; nft tells it so, and expects to read it.
    zero = bytes(_KEYS[each.key][1])
    if each.interval and each.elements and _ends(each.elements[0])[0] != zero:
        keys.append(_end(zero))
        size += len(keys[-1])
    for element in each.elements:
        written = _interval(element) if each.interval else _single(element)
        if size + len(written) > LONGEST - 4:
            yield list_of + nested(c.NFTA_SET_ELEM_LIST_ELEMENTS, b"".join(keys)), tuple(told)
            keys, told, size = [], [], 0
        keys.append(written)
        told.append(element)
        size += len(written)
    if told:
        yield list_of + nested(c.NFTA_SET_ELEM_LIST_ELEMENTS, b"".join(keys)), tuple(told)


def _single(element: Element) -> bytes:
    return _element(_ends(element)[0], _comment_of(element))


def _interval(element: Element) -> bytes:
    """Return the key with which a range begins and the one behind its end, which the last possible key doesn't have."""
    first, last = _ends(element)
    after = int.from_bytes(last, "big") + 1
    if after >> 8 * len(last):
        return _element(first, _comment_of(element) + _OPEN)
    return _element(first, _comment_of(element)) + _end(after.to_bytes(len(last), "big"))


def _element(key: bytes, userdata: bytes) -> bytes:
    inner = nested(c.NFTA_SET_ELEM_KEY, attribute(c.NFTA_DATA_VALUE, key))
    return nested(c.NFTA_LIST_ELEM, inner + attribute(c.NFTA_SET_ELEM_USERDATA, userdata) if userdata else inner)


def _end(key: bytes) -> bytes:
    flags = be32(c.NFTA_SET_ELEM_FLAGS, c.NFT_SET_ELEM_INTERVAL_END)
    return nested(c.NFTA_LIST_ELEM, flags + nested(c.NFTA_SET_ELEM_KEY, attribute(c.NFTA_DATA_VALUE, key)))


def _ends(element: Element) -> tuple[bytes, bytes]:
    """Return the first and the last key of an element."""
    match element.value:
        case PortRange(first=low, last=high):
            return low.to_bytes(2, "big"), high.to_bytes(2, "big")
        case AddressPort(address=address, port=port):
            key = address.packed + port.to_bytes(2, "big") + bytes(2)
            return key, key
        case AddressRange(first=first, last=last):
            return first.packed, last.packed
        case network:
            return network.network_address.packed, network.broadcast_address.packed


def _comment_of(element: Element) -> bytes:
    return _comment(c.NFTNL_UDATA_SET_ELEM_COMMENT, element.comment) if element.comment else b""


def _userdata(kind: int, value: bytes) -> bytes:
    """Return a part of userdata, where nft keeps what the kernel has no attribute for; numbers are as the machine's."""
    return bytes((kind, len(value))) + value


def _comment(kind: int, words: str) -> bytes:
    return _userdata(kind, words.encode() + b"\0")


_OPEN = _userdata(c.NFTNL_UDATA_SET_ELEM_FLAGS, host32(c.SET_ELEM_F_INTERVAL_OPEN))


def _set_userdata(key: KeyType) -> bytes:
    """Return what nft keeps with a set: its keys' byte order, or that they are a concatenation."""
    if key not in _CONCATENATIONS:
        return _userdata(c.NFTNL_UDATA_SET_KEYBYTEORDER, host32(c.BYTEORDER_BIG_ENDIAN))
    kind = _userdata(c.NFTNL_UDATA_SET_TYPEOF_EXPR, host32(c.EXPR_CONCAT))
    typeof = _userdata(c.NFTNL_UDATA_SET_KEY_TYPEOF, kind + _userdata(c.NFTNL_UDATA_SET_TYPEOF_DATA, b""))
    return _userdata(c.NFTNL_UDATA_SET_KEYBYTEORDER, host32(c.BYTEORDER_INVALID)) + typeof
