"""One proof for each kernel feature: rules to load, or a function that uses the feature and raises where it is missing.

Proofs share one throw-away namespace with `lo` up. So none leaves a rule behind that could meet another's packets:
rules match port 1 only, and no proof uses that.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address

from agent.errors import FeatureMissing, KernelError
from agent.kernel import batches, entering, ipv6, links, routing, tablequery
from agent.kernel.conntrack import Conntrack, FlowTuple
from agent.kernel.ipv6 import Ipv6
from agent.kernel.nftables import Tables
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink
from agent.kernel.sockets import SocketDiag, TcpState
from rulesets.diff import Plan
from rulesets.model import Chain, Rule, Ruleset, with_counters
from rulesets.netlink import OWNED, encode
from rulesets.routing import NO_ROUTING, LocalRoute, PolicyRule, Routing, RoutingPlan
from rulesets.vocabulary import (
    Accept,
    ChainType,
    DstPort,
    Family,
    Hook,
    Mark,
    PortRange,
    Protocol,
    SocketCgroup,
)

Proof = str | Callable[[], None]

_LOCALHOST = "127.0.0.1"
_HERE, _THERE, _ALL, _PREFIX = "192.0.2.1", "192.0.2.2", "192.0.2.255", 24  # RFC 5737: in nobody's use
_SECONDS = 1.0  # what is sent on `lo` arrives before `send` returns; only what never comes is waited for
_AGAIN, _ATTEMPTS = 0.01, 1000
_LINK = "weir-proof"
_TABLE, _PRIORITY = 119, 119


def rules(name: str, chain: str, *lines: str, before: str = "") -> str:
    """Return a table of its own with one chain: its ``type ... hook ... priority ...``, then rules."""
    body = "".join(f"\t\t{line}\n" for line in (f"{chain};", *lines))
    return f"table inet weir-{name} {{\n{before}\tchain proof {{\n{body}\t}}\n}}\n"


def generation() -> None:
    """Ask for the number of the ruleset."""
    with _netfilter() as netlink:
        tablequery.generation(netlink)


def port_translated() -> None:
    """Send a datagram to one port and receive it at the other.

    Linux 5.14 to 5.18 accept such a rule in an inet table and never carry it out (fixed by "netfilter: nat: really
    support inet nat without l3 address"), so loading it proves nothing. What is sent inside a namespace passes output
    first, where its translation is settled: it has to come from another one. Without veth, loading has to do.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        listener.settimeout(_AGAIN)
        listener.bind(("", 0))
        port = listener.getsockname()[1]
        rule = f"udp dport {port - 1} dnat to :{port}"
        tables = stack.enter_context(contextlib.closing(Tables()))
        tables.load(rules("dnat", "type nat hook prerouting priority -101", rule))
        sender = _neighbour()
        if sender is None:
            return
        stack.enter_context(sender)
        for _ in range(_ATTEMPTS):
            sender.sendto(b"", (_ALL, port - 1))
            with contextlib.suppress(TimeoutError):
                listener.recv(1)
                return
        raise KernelError(statement=rule, said="the rule is accepted, and not carried out")


def _neighbour() -> socket.socket | None:
    """Return a UDP socket of another throw-away namespace, with a link to this one; None where there is no veth.

    The end that sends comes up last: it gets its queue at once. The other one waits for a kernel worker, which looks at
    new links once a second where many come and go (net/core/link_watch.c): it can't answer until then, not even who has
    an address, so what is sent goes to all.
    """
    with contextlib.ExitStack() as stack:
        home = _this_namespace(stack)
        stack.callback(entering.set_thread_namespace, home)
        entering.leave_for_new_namespace()
        there = _this_namespace(stack)
        try:
            links.add_veth(_LINK, home)
        except FeatureMissing:
            return None
        entering.set_thread_namespace(home)
        links.bring_up(_LINK, IPv4Address(_HERE), _PREFIX)
        entering.set_thread_namespace(there)
        links.bring_up(_LINK, IPv4Address(_THERE), _PREFIX)
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return sender


def _this_namespace(stack: contextlib.ExitStack) -> int:
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    return descriptor


def table_persists() -> None:
    """Make a table that is owned by a socket and outlives it. nft before 1.1 has no word for that: raw netlink."""
    with _netfilter() as netlink:
        table = Plan(actual=None, desired=Ruleset(table="weir-persist"))
        acknowledged = batches.acknowledges_end(netlink)
        batches.send(netlink, encode(table, flags=OWNED, end_acknowledged=acknowledged))


def cgroup_asked() -> None:
    """Ask for the cgroup of a packet's socket. nft has no word for one that isn't there: raw netlink."""
    asked = (DstPort(protocol=Protocol.TCP, ports=PortRange(1, 1)), SocketCgroup(level=1, cgroup=2**64 - 1))
    rule = Rule(slug="asked", matches=asked, action=Accept())
    chain = Chain(name="proof", type=ChainType.FILTER, hook=Hook.OUTPUT, priority=-300, rules=(rule,))
    with _netfilter() as netlink:
        plan = Plan(actual=None, desired=with_counters("weir-cgroup", (chain,)))
        batches.send(netlink, encode(plan, end_acknowledged=batches.acknowledges_end(netlink)))


def _netfilter() -> RawNetlink:
    return RawNetlink(NETLINK_NETFILTER, feature="nf_tables", option="CONFIG_NF_TABLES")


def entry_made() -> None:
    """Make a conntrack entry, list it, and delete it."""
    made = FlowTuple(
        source=IPv4Address("192.0.2.1"),
        destination=IPv4Address("192.0.2.2"),
        protocol=socket.IPPROTO_TCP,
        source_port=1,
        destination_port=1,
    )
    with Conntrack() as conntrack:
        conntrack.create_established(made, mark=1, timeout=60)
        found = [flow for flow in conntrack.flows(socket.IPPROTO_TCP) if flow.original == made and flow.mark == 1]
        if not found or not conntrack.update_mark(found[0], 0, 1) or not conntrack.delete(found[0]):
            raise KernelError(statement="conntrack --create", said="an entry that was made is not there")


def listener_listed(kind: int) -> None:
    """Find a listening socket of our own, TCP or UDP."""
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    with socket.socket(socket.AF_INET, kind) as listener, SocketDiag() as diag:
        listener.bind((_LOCALHOST, 0))
        if kind == socket.SOCK_STREAM:
            listener.listen(1)
        port = listener.getsockname()[1]
        if not any(each.port == port for each in diag.listening_ports((protocol,))):
            raise KernelError(statement=f"ss --listening --{protocol}", said="a listening socket is not listed")


def socket_destroyed() -> None:
    """Destroy one end of a connection; both ends see it."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((_LOCALHOST, 0)))
        client = stack.enter_context(socket.create_connection(listener.getsockname(), _SECONDS))
        server = stack.enter_context(listener.accept()[0])
        server.settimeout(_SECONDS)
        diag = stack.enter_context(SocketDiag())
        port = client.getsockname()[1]
        open_ = diag.tcp_sockets(frozenset({TcpState.ESTABLISHED}))
        destroyed = [each for each in open_ if each.local_port == port and diag.destroy(each)]
        for end, expected in ((client, errno.ECONNABORTED), (server, errno.ECONNRESET)):
            try:
                end.recv(1)
            except OSError as error:
                if error.errno == expected:
                    continue
            raise KernelError(statement="ss --kill", said=f"of {len(destroyed)} destroyed sockets an end lives on")


def rule_added(family: Family) -> None:
    """Add a policy rule, and find it by its protocol number."""
    _routed(Routing(rules=(PolicyRule(family=family, mark=Mark(1, 1), table=_TABLE, priority=_PRIORITY),)))


def route_added(family: Family) -> None:
    """Add a local route to a table of its own, and find it there."""
    _routed(Routing(routes=(LocalRoute(family=family, table=_TABLE),)))


def _routed(wanted: Routing) -> None:
    routing.apply(RoutingPlan(actual=NO_ROUTING, desired=wanted))
    found = routing.read()
    routing.apply(RoutingPlan(actual=wanted, desired=NO_ROUTING))
    if found != wanted:
        text = ", ".join(str(each) for each in (*wanted.rules, *wanted.routes))
        raise KernelError(statement=text, said=f"what was added is not listed with protocol {routing.PROTOCOL}")


rule_added_ipv4 = partial(rule_added, Family.IPV4)
rule_added_ipv6 = partial(rule_added, Family.IPV6)
route_added_ipv4 = partial(route_added, Family.IPV4)
route_added_ipv6 = partial(route_added, Family.IPV6)
tcp_listener_listed = partial(listener_listed, socket.SOCK_STREAM)
udp_listener_listed = partial(listener_listed, socket.SOCK_DGRAM)


def ipv6_there() -> None:
    """Look for IPv6 in the kernel: whether a namespace then has it is another matter."""
    if ipv6.state() is Ipv6.ABSENT:
        raise KernelError(statement="ls /proc/sys/net/ipv6", said="not built in, not loaded, or ipv6.disable=1")


def cookie_told() -> None:
    """Ask for the namespace's number."""
    with _netfilter() as netlink:
        if not netlink.cookie:
            raise KernelError(statement="getsockopt(SO_NETNS_COOKIE)", said=os.strerror(errno.ENOPROTOOPT))
