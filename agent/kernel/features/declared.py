"""The one table of features: what it is, its kernel option, since when it works, and what Weir does without it."""

from collections.abc import Iterator
from dataclasses import dataclass

from agent.kernel.features import proofs
from agent.kernel.features.proofs import Proof, rules

_REFUSED = "Weir doesn't start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One thing that a kernel can lack.

    `option` is its build option (or several), `since` the first Linux that has it as Weir uses it, `instead` what
    happens without it. `needed`: nothing is captured without it, in both directions at default settings. `builds_on`
    names the features that its `proof` uses as well.
    """

    name: str
    option: str
    since: str
    instead: str = _REFUSED
    needed: bool = False
    builds_on: tuple[str, ...] = ()
    proof: Proof


_NF_TABLES, _INET, _NAT, _IPV6 = "nf_tables", "inet tables", "nat chains in inet tables", "IPv6"
_LISTING = "listing of TCP sockets"
OWNED_TABLES = "tables with an owner"
PERSISTENT_TABLES = "owned tables that persist"

FEATURES = (
    Feature(name=_NF_TABLES, option="CONFIG_NF_TABLES", since="3.18", needed=True, proof=proofs.generation),
    Feature(
        # The option depends on CONFIG_IPV6, so a kernel built without that lacks them too; ipv6.disable=1 is no matter.
        name=_INET,
        option="CONFIG_NF_TABLES_INET",
        since="3.14",
        needed=True,
        builds_on=(_NF_TABLES,),
        proof=rules("inet", "type filter hook output priority -300", "meta mark & 1 == 1 meta mark set meta mark | 1"),
    ),
    Feature(
        name=_NAT,
        option="CONFIG_NFT_NAT",
        since="5.2",
        needed=True,
        builds_on=(_INET,),
        proof=rules("nat", "type nat hook output priority -101"),
    ),
    Feature(
        name="redirect",
        option="CONFIG_NFT_REDIR",
        since="5.2",
        needed=True,
        builds_on=(_NAT,),
        proof=rules("redirect", "type nat hook output priority -101", "tcp dport 1 redirect to :1"),
    ),
    Feature(
        name="dnat to a port alone",
        option="CONFIG_NFT_NAT",
        since="5.19, and stable releases from June 2022",
        needed=True,
        builds_on=(_NAT,),
        proof=proofs.port_translated,
    ),
    Feature(
        name="route chains in inet tables",
        option="CONFIG_NF_TABLES_INET",
        since="5.2",
        needed=True,
        builds_on=(_INET,),
        proof=rules("route", "type route hook output priority -150", 'oifname "lo" tcp dport 1 meta mark set 1'),
    ),
    Feature(
        name="address type by fib",
        option="CONFIG_NFT_FIB_INET",
        since="4.10",
        needed=True,
        builds_on=(_INET,),
        proof=rules("fib", "type filter hook prerouting priority -101", "tcp dport 1 fib daddr type != local accept"),
    ),
    Feature(
        name="connection marks",
        option="CONFIG_NFT_CT, CONFIG_NF_CONNTRACK_MARK",
        since="3.14",
        needed=True,
        builds_on=(_INET,),
        proof=rules(
            "mark",
            "type filter hook output priority -150",
            "tcp dport 1 ct mark & 0xfff == 0x111 ct mark set ct mark & 0xfffff000 | 0x111",
        ),
    ),
    Feature(
        name="named counters",
        option="CONFIG_NF_TABLES (before 6.2 CONFIG_NFT_OBJREF, before 5.18 CONFIG_NFT_COUNTER)",
        since="4.10",
        needed=True,
        builds_on=(_INET,),
        proof=rules(
            "counter",
            "type filter hook output priority -300",
            'tcp dport 1 counter name "named"',
            before="\tcounter named { }\n",
        ),
    ),
    Feature(
        name="connection zones",
        option="CONFIG_NFT_CT, CONFIG_NF_CONNTRACK_ZONES",
        since="4.11",
        instead="a target with `dns = true` fails, one without is captured",
        builds_on=(_INET,),
        proof=rules("zone", "type filter hook output priority -300", "udp dport 1 ct original zone set 1"),
    ),
    Feature(
        name="user of a socket",
        option="CONFIG_NF_TABLES",
        since="3.14",
        instead="a target with `proxy_user` fails, one whose proxy sets `proxy_mark` is captured",
        builds_on=(_INET,),
        proof=rules("user", "type filter hook output priority -300", "tcp dport 1 meta skuid 1 accept"),
    ),
    Feature(
        # Until May 2022 a packet without a socket ended the kernel in output; "dnat to a port alone" came still later.
        name="cgroup of a socket",
        option="CONFIG_NFT_SOCKET, CONFIG_SOCK_CGROUP_DATA",
        since="5.13",
        instead="a target with `proxy_cgroup` fails, one whose proxy sets `proxy_mark` is captured",
        builds_on=(_INET,),
        proof=proofs.cgroup_asked,
    ),
    Feature(
        name="TCP flags",
        option="CONFIG_NF_TABLES",
        since="3.14",
        instead="a target fails while anything in its namespace has a TCP socket: start that afterwards",
        builds_on=(_INET,),
        proof=rules(
            "flags",
            "type filter hook output priority -300",
            "tcp dport 1 tcp flags & (fin|syn|rst|ack) != syn accept",
        ),
    ),
    Feature(
        name="wildcards of interfaces",
        option="CONFIG_NF_TABLES",
        since="3.14",
        instead='a target with a `"br-*"` among its interfaces fails, whole names work',
        builds_on=(_INET,),
        proof=rules("wildcard", "type filter hook prerouting priority -101", 'iifname "br-*" tcp dport 1 accept'),
    ),
    Feature(
        name="sets of networks and port ranges",
        option="CONFIG_NF_TABLES (before 5.8 CONFIG_NF_TABLES_SET)",
        since="3.14",
        instead="a target that includes or excludes networks or ports fails",
        builds_on=(_INET,),
        proof=rules(
            "intervals",
            "type filter hook output priority -300",
            "tcp dport 1 ip daddr @networks accept",
            "udp dport @ports accept",
            before=(
                "\tset networks { type ipv4_addr; flags interval; elements = { 192.0.2.0/25, 198.51.100.1 }; }\n"
                "\tset ports { type inet_service; flags interval; elements = { 1-1, 3-4 }; }\n"
            ),
        ),
    ),
    Feature(
        name="sets of address and port",
        option="CONFIG_NF_TABLES (before 5.8 CONFIG_NF_TABLES_SET)",
        since="4.1",
        instead="the node's table for probes is refused",
        builds_on=(_INET,),
        proof=rules(
            "pairs",
            "type filter hook output priority -300",
            "ip daddr . tcp dport @pairs accept",
            before="\tset pairs { type ipv4_addr . inet_service; elements = { 192.0.2.1 . 1 }; }\n",
        ),
    ),
    Feature(
        name="reject in prerouting",
        option="CONFIG_NFT_REJECT_INET",
        since="5.9",
        instead='a target with a family that isn\'t captured fails unless `uncapturable = "direct"`',
        builds_on=(_NAT,),
        proof=rules(
            "reject",
            "type nat hook prerouting priority -101",
            "tcp dport 1 reject with tcp reset",
            "udp dport 1 reject with icmpx port-unreachable",
        ),
    ),
    Feature(
        name=OWNED_TABLES,
        option="CONFIG_NF_TABLES",
        since="5.12",
        instead="an unconfirmed `apply --confirm` is undone by its guard alone: kill that with -9 and it stays",
        builds_on=(_INET,),
        proof=rules("owner", "type filter hook output priority -300", before="\tflags owner;\n"),
    ),
    Feature(
        name=PERSISTENT_TABLES,
        option="CONFIG_NF_TABLES",
        since="6.9",
        instead="the daemon doesn't own its tables: who may, can edit them; it sees that and puts them back",
        builds_on=(OWNED_TABLES,),
        proof=proofs.table_persists,
    ),
    Feature(
        name="conntrack entries over netlink",
        option="CONFIG_NF_CT_NETLINK",
        since="2.6.32",
        needed=True,
        proof=proofs.entry_made,
    ),
    Feature(name=_LISTING, option="CONFIG_INET_TCP_DIAG", since="3.3", needed=True, proof=proofs.tcp_listener_listed),
    Feature(
        name="listing of UDP sockets",
        option="CONFIG_INET_UDP_DIAG",
        since="3.3",
        needed=True,
        proof=proofs.udp_listener_listed,
    ),
    Feature(
        name="ending of sockets",
        option="CONFIG_INET_DIAG_DESTROY",
        since="4.5",
        instead=(
            "`remove` waits until captured streams have ended by themselves;"
            ' with `established = "reset"` or after `kept_deadline` a stream ends with its next segment'
        ),
        builds_on=(_LISTING,),
        proof=proofs.socket_destroyed,
    ),
    Feature(
        name="policy rules with a protocol number",
        option="CONFIG_IP_MULTIPLE_TABLES",
        since="4.17",
        needed=True,
        proof=proofs.rule_added_ipv4,
    ),
    Feature(
        name="local routes in a table of their own",
        option="CONFIG_IP_MULTIPLE_TABLES",
        since="2.2",
        needed=True,
        proof=proofs.route_added_ipv4,
    ),
    Feature(
        name=_IPV6,
        option="CONFIG_IPV6",
        since="2.2",
        instead="IPv4 is captured, and there is nothing else to capture",
        proof=proofs.ipv6_there,
    ),
    Feature(
        name="IPv6 policy rules with a protocol number",
        option="CONFIG_IPV6_MULTIPLE_TABLES",
        since="4.17",
        instead='a target with inbound IPv6 to capture fails; `families = ["ipv4"]` works',
        builds_on=(_IPV6,),
        proof=proofs.rule_added_ipv6,
    ),
    Feature(
        name="IPv6 local routes in a table of their own",
        option="CONFIG_IPV6_MULTIPLE_TABLES",
        since="2.6.19",
        instead='a target with inbound IPv6 to capture fails; `families = ["ipv4"]` works',
        builds_on=(_IPV6,),
        proof=proofs.route_added_ipv6,
    ),
    Feature(
        name="cookies of namespaces",
        option="CONFIG_NET_NS",
        since="5.14",
        instead="a namespace is known by device and inode alone: a deadline noted for one can meet a later one",
        proof=proofs.cookie_told,
    ),
)


def markdown() -> str:
    """Return the table as docs/kernels.md has it."""
    return "\n".join(_rows())


def _rows() -> Iterator[str]:
    yield "| feature | kernel | without it |"
    yield "| --- | --- | --- |"
    for each in FEATURES:
        yield f"| {each.name} | {each.option}, {each.since} | {each.instead} |"
