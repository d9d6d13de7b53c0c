"""The kernel's expressions, each as one element of a rule's list. A rule stops at the first that doesn't hold.

One register is enough: everything is loaded into the first and tested there (net/netfilter/nft_*.c).
"""

from functools import lru_cache

from rulesets.netlink import constants as c
from rulesets.netlink.attributes import attribute, be32, data, nested, text

_MANY = 1024  # there are few ports, names and marks on one machine, and the same ones in each of its pods


def _expression(name: str, body: bytes) -> bytes:
    return nested(c.NFTA_LIST_ELEM, text(c.NFTA_EXPR_NAME, name) + nested(c.NFTA_EXPR_DATA, body))


@lru_cache(_MANY)
def meta_load(key: int) -> bytes:
    """Load something known of the packet into the first register."""
    return _expression("meta", be32(c.NFTA_META_KEY, key) + be32(c.NFTA_META_DREG, c.NFT_REG_1))


@lru_cache(_MANY)
def meta_set(key: int) -> bytes:
    """Set something of the packet from the first register."""
    return _expression("meta", be32(c.NFTA_META_KEY, key) + be32(c.NFTA_META_SREG, c.NFT_REG_1))


@lru_cache(_MANY)
def socket_cgroup_load(level: int) -> bytes:
    """Load the number of the cgroup at this depth in which the packet's socket was made; stop where there is none."""
    body = be32(c.NFTA_SOCKET_KEY, c.NFT_SOCKET_CGROUPV2) + be32(c.NFTA_SOCKET_DREG, c.NFT_REG_1)
    return _expression("socket", body + be32(c.NFTA_SOCKET_LEVEL, level))


@lru_cache(_MANY)
def ct_load(key: int) -> bytes:
    """Load something known of the connection into the first register."""
    return _expression("ct", be32(c.NFTA_CT_KEY, key) + be32(c.NFTA_CT_DREG, c.NFT_REG_1))


@lru_cache(_MANY)
def ct_set(key: int, *, direction: int | None = None) -> bytes:
    """Set something of the connection, or of one direction of it, from the first register."""
    body = be32(c.NFTA_CT_KEY, key) + be32(c.NFTA_CT_SREG, c.NFT_REG_1)
    if direction is not None:
        body += attribute(c.NFTA_CT_DIRECTION, bytes((direction,)))
    return _expression("ct", body)


@lru_cache(_MANY)
def payload_load(base: int, offset: int, length: int, register: int = c.NFT_REG_1) -> bytes:
    """Load bytes of a header into a register."""
    body = be32(c.NFTA_PAYLOAD_DREG, register) + be32(c.NFTA_PAYLOAD_BASE, base)
    return _expression("payload", body + be32(c.NFTA_PAYLOAD_OFFSET, offset) + be32(c.NFTA_PAYLOAD_LEN, length))


@lru_cache(_MANY)
def fib_destination_type() -> bytes:
    """Load what kind of address the destination is (RTN_LOCAL, ...)."""
    body = be32(c.NFTA_FIB_FLAGS, c.NFTA_FIB_F_DADDR) + be32(c.NFTA_FIB_RESULT, c.NFT_FIB_RESULT_ADDRTYPE)
    return _expression("fib", body + be32(c.NFTA_FIB_DREG, c.NFT_REG_1))


@lru_cache(_MANY)
def compare(operator: int, value: bytes) -> bytes:
    """Go on where the first register compares so with a value, over the value's length."""
    body = be32(c.NFTA_CMP_SREG, c.NFT_REG_1) + be32(c.NFTA_CMP_OP, operator)
    return _expression("cmp", body + data(c.NFTA_CMP_DATA, value))


@lru_cache(_MANY)
def outside(first: bytes, last: bytes) -> bytes:
    """Go on where the first register lies outside a range."""
    body = be32(c.NFTA_RANGE_SREG, c.NFT_REG_1) + be32(c.NFTA_RANGE_OP, c.NFT_RANGE_NEQ)
    return _expression("range", body + data(c.NFTA_RANGE_FROM_DATA, first) + data(c.NFTA_RANGE_TO_DATA, last))


@lru_cache(_MANY)
def mask(kept: bytes, changed: bytes) -> bytes:
    """Keep these bits of the first register and turn those."""
    body = be32(c.NFTA_BITWISE_SREG, c.NFT_REG_1) + be32(c.NFTA_BITWISE_DREG, c.NFT_REG_1)
    body += be32(c.NFTA_BITWISE_LEN, len(kept))
    return _expression("bitwise", body + data(c.NFTA_BITWISE_MASK, kept) + data(c.NFTA_BITWISE_XOR, changed))


@lru_cache(_MANY)
def to_network_order(length: int) -> bytes:
    """Turn the first register into network byte order, in which greater and less are compared."""
    body = be32(c.NFTA_BYTEORDER_SREG, c.NFT_REG_1) + be32(c.NFTA_BYTEORDER_DREG, c.NFT_REG_1)
    body += be32(c.NFTA_BYTEORDER_OP, c.NFT_BYTEORDER_HTON) + be32(c.NFTA_BYTEORDER_LEN, length)
    return _expression("byteorder", body + be32(c.NFTA_BYTEORDER_SIZE, length))


@lru_cache(_MANY)
def look_up(name: str, *, negate: bool) -> bytes:
    """Go on where what stands from the first register on is in a set, or isn't."""
    body = text(c.NFTA_LOOKUP_SET, name) + be32(c.NFTA_LOOKUP_SREG, c.NFT_REG_1)
    if negate:
        body += be32(c.NFTA_LOOKUP_FLAGS, c.NFT_LOOKUP_F_INV)
    return _expression("lookup", body)


@lru_cache(_MANY)
def count(name: str) -> bytes:
    """Count the packet in a named counter."""
    return _expression(
        "objref", be32(c.NFTA_OBJREF_IMM_TYPE, c.NFT_OBJECT_COUNTER) + text(c.NFTA_OBJREF_IMM_NAME, name)
    )


@lru_cache(_MANY)
def load(value: bytes) -> bytes:
    """Load a value into the first register."""
    return _expression("immediate", be32(c.NFTA_IMMEDIATE_DREG, c.NFT_REG_1) + data(c.NFTA_IMMEDIATE_DATA, value))


@lru_cache(_MANY)
def verdict(code: int) -> bytes:
    """End with a verdict."""
    decided = nested(c.NFTA_DATA_VERDICT, be32(c.NFTA_VERDICT_CODE, code))
    body = be32(c.NFTA_IMMEDIATE_DREG, c.NFT_REG_VERDICT) + nested(c.NFTA_IMMEDIATE_DATA, decided)
    return _expression("immediate", body)


@lru_cache(_MANY)
def nat_to_port() -> bytes:
    """Translate the destination to the port in the first register, and leave the address as it is."""
    body = be32(c.NFTA_NAT_TYPE, c.NFT_NAT_DNAT) + be32(c.NFTA_NAT_FAMILY, c.NFPROTO_INET)
    body += be32(c.NFTA_NAT_REG_PROTO_MIN, c.NFT_REG_1)
    return _expression("nat", body + be32(c.NFTA_NAT_FLAGS, c.NF_NAT_RANGE_PROTO_SPECIFIED))


@lru_cache(_MANY)
def nat_from_address(family: int) -> bytes:
    """Translate the source to the address in the first register."""
    body = be32(c.NFTA_NAT_TYPE, c.NFT_NAT_SNAT) + be32(c.NFTA_NAT_FAMILY, family)
    return _expression("nat", body + be32(c.NFTA_NAT_REG_ADDR_MIN, c.NFT_REG_1))


@lru_cache(_MANY)
def redirect_to_port() -> bytes:
    """Translate the destination to this host and the port in the first register."""
    body = be32(c.NFTA_REDIR_REG_PROTO_MIN, c.NFT_REG_1)
    return _expression("redir", body + be32(c.NFTA_REDIR_FLAGS, c.NF_NAT_RANGE_PROTO_SPECIFIED))


@lru_cache(_MANY)
def by_chance(one_in: int) -> bytes:
    """Load a number below `one_in`, each as likely as any other, into the first register."""
    body = be32(c.NFTA_NG_DREG, c.NFT_REG_1) + be32(c.NFTA_NG_MODULUS, one_in)
    return _expression("numgen", body + be32(c.NFTA_NG_TYPE, c.NFT_NG_RANDOM) + be32(c.NFTA_NG_OFFSET, 0))


@lru_cache(_MANY)
def limit(per_second: int, burst: int) -> bytes:
    """Go on for no more packets than so many a second."""
    rate = attribute(c.NFTA_LIMIT_RATE, per_second.to_bytes(8, "big"))
    unit = attribute(c.NFTA_LIMIT_UNIT, (1).to_bytes(8, "big"))  # seconds
    body = rate + unit + be32(c.NFTA_LIMIT_BURST, burst)
    return _expression("limit", body + be32(c.NFTA_LIMIT_TYPE, c.NFT_LIMIT_PKTS) + be32(c.NFTA_LIMIT_FLAGS, 0))


@lru_cache(_MANY)
def reject(kind: int, code: int) -> bytes:
    """Answer that the packet is refused."""
    return _expression("reject", be32(c.NFTA_REJECT_TYPE, kind) + attribute(c.NFTA_REJECT_ICMP_CODE, bytes((code,))))
