"""The way of a probe's answer: from the pod to the node, as the kernel itself routes it, in both namespaces.

The node's probe leaves with a source of Weir's (rulesets/host). The pod's answer goes to that source; on the node,
connection tracking turns it into the node's own address before routing, so it must be routed to the table local. A
policy rule that comes before that table, as clouds' networks make them for the interfaces of pods, steals it.
"""

import errno
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from agent.doctor.files import setting, sysctl
from agent.doctor.findings import Finding, Level
from agent.kernel.policy_rules import LOCAL, LOOKUP, TABLE_LOCAL, Link, Route, Rtnetlink, RuleEntry
from rulesets.vocabulary import Address, Family, family_of

MOST = 2000
"""Addresses of pods that are looked at on a node: more than one has by far, and 50 ms."""

_FAR = {Family.IPV4: ip_address("192.0.2.1"), Family.IPV6: ip_address("2001:db8::1")}  # RFC 5737, RFC 3849
# Whose interfaces are called so on the node, for whoever has to find the culprit.
_NETWORKS = (
    (re.compile(r"vlan\.eth|eni[0-9a-f]{8,}"), "AWS VPC CNI"),
    (re.compile(r"azv"), "Azure CNI"),
    (re.compile(r"cali[0-9a-f]"), "Calico"),
    (re.compile(r"lxc|cilium_"), "Cilium"),
    (re.compile(r"gke[0-9a-f]"), "GKE"),
    (re.compile(r"cni0|cbr0"), "a bridge CNI"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReply:
    """How the node routes an answer that arrives from a pod by an interface, for the node's own address.

    `filters` is what rp_filter amounts to there: 1 wants the way back to be the same, 2 any (ip-sysctl.rst).
    """

    interface: str
    pod: Address
    node: Address
    route: Route
    filters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PodReply:
    """How a pod routes its answer to a probe source, and how what goes far away.

    `by` is the interface that the answer takes, `facing` are those whose other end is the node's, where that is known.
    """

    pod: Address
    source: Address
    route: Route
    far: Route
    by: str = ""
    facing: tuple[str, ...] = ()


def read_node(
    netlink: Rtnetlink, there: Iterable[Link], known: Iterable[tuple[int, Address]] = ()
) -> tuple[NodeReply, ...]:
    """Return how answers of pods would be routed on the node: of `known` ones, and of neighbours, `MOST` of them.

    `known` are addresses with the index of the node's interface behind which they are (`ends`).
    """
    links = {each.index: each for each in there}
    pods = {index for index, link in links.items() if link.kind == "veth" and link.away and link.up}
    pods |= {links[index].master for index in pods if links[index].master in links}
    candidates = dict.fromkeys((*known, *netlink.neighbours(), *netlink.single_routes()))
    found = []
    for index, address in [each for each in candidates if each[0] in pods][:MOST]:
        forth = netlink.route(address)
        if forth.error or forth.interface != index or forth.source is None or forth.kind == LOCAL:
            continue  # not a pod that the node reaches there
        back = netlink.route(forth.source, source=address, arriving_by=index)
        name = links[index].name
        filters = _rp_filter(name) if address.version == 4 else 0
        found.append(NodeReply(interface=name, pod=address, node=forth.source, route=back, filters=filters))
    return tuple(found)


def _rp_filter(interface: str) -> int:
    # The greater of "all" and the interface's own counts (include/linux/inetdevice.h, IN_DEV_RPFILTER).
    return max(sysctl(f"net/ipv4/conf/{each}/rp_filter") or 0 for each in ("all", interface))


def ends(netlink: Rtnetlink, nodes_links: Iterable[Link]) -> tuple[tuple[int, Address], ...]:
    """Return a pod's addresses, each with the index of the node's interface that its packets arrive by."""
    nodes = {(each.peer, each.index): each for each in nodes_links if each.kind == "veth" and each.away}
    facing = {each.index: nodes.get((each.index, each.peer)) for each in netlink.links() if each.away}
    pairs = ((facing.get(index), address) for index, address in netlink.addresses())
    return tuple((link.master or link.index, address) for link, address in pairs if link is not None)


def read_pod(netlink: Rtnetlink, sources: Iterable[Address], nodes_links: Iterable[Link] = ()) -> tuple[PodReply, ...]:
    """Return how a pod's answers would be routed in the pod, for each source of a family that it has an address of."""
    links = {each.index: each for each in netlink.links()}
    nodes = {(each.peer, each.index) for each in nodes_links if each.kind == "veth" and each.away}
    facing = tuple(each.name for each in links.values() if each.away and (each.index, each.peer) in nodes)
    own: dict[Family, Address] = {}
    for index, address in netlink.addresses():
        name = links[index].name if index in links else ""
        if name != "lo" and (not facing or name in facing):
            own.setdefault(family_of(address), address)
    found = []
    for source in sources:
        pod = own.get(family_of(source))
        if pod is not None:
            route = netlink.route(source, source=pod)
            by = links[route.interface].name if route.interface in links else ""
            far = netlink.route(_FAR[family_of(source)], source=pod)
            found.append(PodReply(pod=pod, source=source, route=route, far=far, by=by, facing=facing))
    return tuple(found)


def judge_node(replies: Iterable[NodeReply], rules: Iterable[RuleEntry]) -> Iterator[Finding]:
    """Yield a finding for each interface and family by which answers don't come back to the node."""
    rules = tuple(rules)
    told: set[tuple[str, Family]] = set()
    for each in replies:
        key = (each.interface, family_of(each.pod))
        if (each.route.kind == LOCAL and not each.route.error) or key in told:
            continue
        told.add(key)
        yield _stolen_on_node(each, rules)


def _stolen_on_node(reply: NodeReply, rules: tuple[RuleEntry, ...]) -> Finding:
    ip = "ip" if family_of(reply.pod) is Family.IPV4 else "ip -6"
    where = f"an answer of {reply.pod} that arrives by {reply.interface}{_network(reply.interface)}"
    thief = first_match(rules, reply.pod, reply.node, reply.route, arriving_by=reply.interface)
    # EXDEV until 6.12, EINVAL since: the kernel has one word for every refusal of what arrives (inet_rtm_getroute).
    if reply.route.error == errno.EXDEV or (reply.route.error == errno.EINVAL and reply.filters and thief is None):
        return Finding(
            check="probe-reply",
            level=Level.ERROR,
            what=f"{where} is dropped by rp_filter on {reply.interface}",
            why="the kernel would send to that pod by another interface, and trusts only what arrives there: probes"
            " fail, and pods are restarted",
            do="let the kernel be content with any interface (2, loose) there",
            command=setting("net/ipv4/conf", (reply.interface,), "rp_filter", 2),
        )
    by = f", by {thief}" if thief else ""
    went = reply.route.said if reply.route.error else f"goes on by table {reply.route.table}"
    first = None if thief is None or thief.priority < 1 else thief.priority - 1
    arriving = shlex.quote(reply.interface)
    command = "" if first is None else f"{ip} rule add pref {first} iif {arriving} to {reply.node} lookup local"
    return Finding(
        check="probe-reply",
        level=Level.ERROR,
        what=f"{where} for {reply.node}, the node's own address: {went}{by}",
        why="the node's probes of pods behind that interface are never answered: they fail, and pods are restarted",
        do="let what is for the node's own address be looked up in the table local before that rule",
        command=command,
    )


def judge_pod(replies: Iterable[PodReply], rules: Iterable[RuleEntry]) -> Iterator[Finding]:
    """Yield a finding for each probe source to which a pod's answer doesn't go the way to the node."""
    replies, rules = tuple(replies), tuple(rules)
    has_ipv4 = any(each.pod.version == 4 for each in replies)
    for each in replies:
        fault = _fault(each)
        if not fault:
            continue
        thief = first_match(rules, each.pod, each.source, each.route)
        by = f", by {thief}" if thief and thief.table not in (253, 254) else ""
        # Kubelet probes the first address of a pod, which is its IPv4 one where it has both.
        second = has_ipv4 and each.pod.version == 6
        ip = "ip" if each.pod.version == 4 else "ip -6"
        gateway = each.far.gateway
        command = f"{ip} route add {each.source} via {gateway}" if gateway is not None and not by else ""
        yield Finding(
            check="probe-reply",
            level=Level.WARNING if second or fault.startswith("is looked for on the link") else Level.ERROR,
            what=f"the answer to a probe from {each.source} {fault}{by}",
            why="the node's probes of this pod come from that address: they fail, and the pod is restarted",
            do="let what is for the probe source take the way to the node, as what is for far away does",
            command=command,
        )


def _fault(reply: PodReply) -> str:
    route = reply.route
    if route.error:
        return f"has no way: {route.said}"
    if route.kind == LOCAL:
        return "is delivered in the pod itself"
    if reply.facing and reply.by not in reply.facing:
        return f"leaves by {reply.by}, and the node is behind {' and '.join(reply.facing)}"
    if not reply.facing and not reply.far.error and route.interface != reply.far.interface:
        return f"leaves by {reply.by}, and everything else by another interface"
    if route.gateway is None and reply.far.gateway is not None:
        return f"is looked for on the link {reply.by} itself, where only a node with proxy_arp answers for it"
    return ""


def first_match(
    rules: Iterable[RuleEntry], source: Address, destination: Address, route: Route, *, arriving_by: str = ""
) -> RuleEntry | None:
    """Return the rule that led to a route's table, or that refused; None where it isn't told by what rules ask."""
    for rule in rules:
        if rule.family is not family_of(source) or (rule.action == LOOKUP and rule.table == TABLE_LOCAL):
            continue
        asks = (
            (not rule.source or source in rule.source)
            and (not rule.destination or destination in rule.destination)
            and (not rule.in_interface or rule.in_interface == (arriving_by or "lo"))
            and not rule.out_interface
            and not rule.mask
        )
        if asks is rule.inverted:
            continue
        if (not route.error and rule.table == route.table) or (route.error and rule.action not in (LOOKUP, 2, 3)):
            return rule
    return None


def _network(interface: str) -> str:
    return next((f" ({name})" for form, name in _NETWORKS if form.match(interface)), "")
