"""All tables of nft's in a namespace, whoever wrote them, as values and of one moment.

Acts in the namespace of the calling thread, as `agent.kernel.iptables` does (`Handle.inside`).
"""

from dataclasses import dataclass

from agent.errors import GenerationMoved, KernelError
from agent.kernel.iptables import TABLES
from agent.kernel.nftables import Tables
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.kernel.tablequery import TableName, generation, tables
from rulesets.model import Ruleset
from rulesets.model.ruleset import NFT_NAME

ATTEMPTS = 5
"""How often rules are read that somebody changes meanwhile."""

_FAMILIES = ("inet", "ip", "ip6")


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTables:
    """The tables of a namespace when its rules were at a generation, in the kernel's order, Weir's own among them.

    `unread` says of each table that can't be read why not, `compat` names those with parts that only iptables can
    read, and `iptables` those that were left to it.
    """

    generation: int
    rulesets: tuple[Ruleset, ...] = ()
    unread: tuple[str, ...] = ()
    compat: tuple[str, ...] = ()
    iptables: tuple[TableName, ...] = ()


def read_tables(*, left: frozenset[str] = frozenset(("ip", "ip6"))) -> LiveTables:
    """Return every table, but those of iptables' names in the families that are `left` to `agent.kernel.iptables`.

    Takes time and memory by what there is: 5 s and 300 MB for 20,000 rules beside 100,000 elements. Raises
    `LibraryMissing`, `FeatureMissing`, `KernelError`, and `GenerationMoved` where somebody changes rules faster than
    they can be read.
    """
    with RawNetlink(NETLINK_NETFILTER, feature="nf_tables", option="CONFIG_NF_TABLES") as netlink:
        library = Tables()
        try:
            for _ in range(ATTEMPTS):
                before = generation(netlink)
                try:
                    read = _read(library, tables(netlink), left, before)
                except KernelError:
                    if generation(netlink) == before:
                        raise
                    continue
                if generation(netlink) == before:
                    return read
        finally:
            library.close()
    raise GenerationMoved(
        statement="nft -j list ruleset", said=f"somebody kept changing the rules: {ATTEMPTS} times while they were read"
    )


def _read(library: Tables, names: tuple[TableName, ...], left: frozenset[str], now: int) -> LiveTables:
    rulesets: list[Ruleset] = []
    unread: list[str] = []
    compat: list[str] = []
    iptables: list[TableName] = []
    for each in names:
        if each.family in left and each.name in TABLES:
            iptables.append(each)
        elif each.family in _FAMILIES and NFT_NAME.fullmatch(each.name):
            read = library.read_anybodys(each)
            rulesets += read.rulesets
            unread += read.unread
            compat += read.compat
        elif each.family in _FAMILIES:
            unread.append(f"table {each.family} {each.name!r} has a name that nft itself could not read")
        elif each.family != "arp":  # which no packet of either family meets
            unread.append(f"table {each}: only tables of the families inet, ip and ip6 are read")
    return LiveTables(
        generation=now,
        rulesets=tuple(rulesets),
        unread=tuple(unread),
        compat=tuple(compat),
        iptables=tuple(iptables),
    )
