"""The handles of a table's rules, which say in messages and in `nft delete rule` which one is meant.

Source: include/uapi/linux/netfilter/nf_tables.h. Acts in the calling thread's namespace.
"""

from collections.abc import Mapping

from agent.kernel.attributes import attribute, attributes
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.kernel.tablequery import TableName, header_of
from rulesets.netlink import constants as c


def rule_handles(table: TableName) -> Mapping[str, tuple[int, ...]]:
    """Return the handles of the rules of each chain, in the rules' order; chains without rules are left out."""
    statement = f"nft list table {table}"
    name, header = table.name.encode() + b"\0", header_of(table.family)
    request = header + attribute(c.NFTA_RULE_TABLE, name)
    found: dict[str, list[int]] = {}
    with RawNetlink(NETLINK_NETFILTER, feature="nf_tables over netlink", option="CONFIG_NF_TABLES") as netlink:
        kind = c.NFNL_SUBSYS_NFTABLES << 8 | c.NFT_MSG_GETRULE
        for body in netlink.dump(kind, request, statement=statement).expect(statement):
            told = attributes(body, len(header))
            # A kernel that can't choose lists the rules of all tables.
            if (body[0], told.get(c.NFTA_RULE_TABLE)) == (header[0], name):
                chain = told[c.NFTA_RULE_CHAIN].rstrip(b"\0").decode(errors="replace")
                found.setdefault(chain, []).append(int.from_bytes(told[c.NFTA_RULE_HANDLE], "big"))
    return {chain: tuple(handles) for chain, handles in found.items()}
