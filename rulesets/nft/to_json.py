"""Rulesets as the JSON that ``nft -j -f`` loads and ``nft -j list`` prints (libnftables-json(5))."""

import json
from collections.abc import Iterator
from typing import assert_never

from rulesets.model import AddressPort, AddressRange, Chain, Element, Rule, Ruleset, Set
from rulesets.nft.read import action_text, match_text
from rulesets.vocabulary import (
    FULL_MASK,
    Accept,
    Action,
    ConnMark,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Foreign,
    InIface,
    InSet,
    LocalAddress,
    LocalSocket,
    Mark,
    Match,
    Network,
    OfFamily,
    OutIface,
    PacketMark,
    PortRange,
    Proto,
    ReadAction,
    ReadMatch,
    Redirect,
    Reject,
    RejectWith,
    SetConnMark,
    SetField,
    SetMark,
    Snat,
    SocketCgroup,
    SocketUser,
    Src,
    SrcPort,
    TcpFlags,
    family_of,
)

Json = dict[str, object]
PACKET_MARK: Json = {"meta": {"key": "mark"}}
_REPLIES: dict[RejectWith, Json] = {
    RejectWith.TCP_RESET: {"type": "tcp reset"},
    RejectWith.PORT_UNREACHABLE: {"type": "icmpx", "expr": "port-unreachable"},
}
CONNECTION_MARK: Json = {"ct": {"key": "mark"}}


def render_json(ruleset: Ruleset) -> str:
    """Return the whole ruleset as one JSON document, commands in the order in which nft must read them."""
    return json.dumps({"nftables": list(_objects(ruleset))}, indent=2) + "\n"


def _objects(ruleset: Ruleset) -> Iterator[Json]:
    place: Json = {"family": "inet", "table": ruleset.table}
    yield {"table": {"family": "inet", "name": ruleset.table}}
    for counter in ruleset.counters:
        yield {"counter": {**place, "name": counter.name, "packets": counter.packets, "bytes": counter.bytes}}
    for each in ruleset.sets:
        yield {"set": {**place, **_set(each)}}
    for chain in ruleset.chains:
        yield {"chain": {**place, **_chain(chain)}}
    for chain in ruleset.chains:
        for rule in chain.rules:
            yield {"rule": {**place, "chain": chain.name, "comment": rule.slug, "expr": _rule(rule)}}


def _chain(chain: Chain) -> Json:
    at: Json = {"type": chain.type, "hook": chain.hook, "prio": chain.priority, "policy": chain.policy}
    return {"name": chain.name, **at}


def _set(each: Set) -> Json:
    types = each.key.split(" . ")
    shown: Json = {"name": each.name, "type": types[0] if len(types) == 1 else types}
    if each.interval:
        shown["flags"] = ["interval"]
    if each.elements:
        shown["elem"] = [_element(element) for element in each.elements]
    return shown


def _element(element: Element) -> object:
    value: object
    match element.value:
        case PortRange(first=first, last=last):
            value = first if first == last else {"range": [first, last]}
        case AddressPort(address=address, port=port):
            value = {"concat": [str(address), port]}
        case AddressRange(first=low, last=high):
            value = {"range": [str(low), str(high)]}
        case network:
            value = _network(network)
    return {"elem": {"val": value, "comment": element.comment}} if element.comment else value


def _network(network: Network) -> object:
    address = str(network.network_address)
    if network.prefixlen == network.max_prefixlen:
        return address
    return {"prefix": {"addr": address, "len": network.prefixlen}}


def _rule(rule: Rule) -> list[Json]:
    return [*map(_match, rule.matches), {"counter": rule.slug}, _action(rule.action)]


def _payload(protocol: str, field: str) -> Json:
    return {"payload": {"protocol": protocol, "field": field}}


def _masked(key: Json, mark: Mark) -> Json:
    return key if mark.mask == FULL_MASK else {"&": [key, mark.mask]}


def _ip(network: Network) -> str:
    return "ip" if network.version == 4 else "ip6"


def _ports(ports: PortRange) -> object:
    return ports.first if ports.first == ports.last else {"range": [ports.first, ports.last]}


def _field(field: SetField) -> Json:
    parts = [_payload(*part.split()) for part in field.split(" . ")]
    return parts[0] if len(parts) == 1 else {"concat": parts}


def _match(match: Match) -> Json:
    left: Json
    right: object
    if isinstance(match, ReadMatch):
        return {"foreign": match_text(match)}
    operator = "!=" if getattr(match, "negate", False) else "=="
    match match:
        case OfFamily(family=family):
            left, right = {"meta": {"key": "nfproto"}}, family
        case Proto(protocol=protocol):
            left, right = {"meta": {"key": "l4proto"}}, protocol
        case Src(network=network):
            left, right = _payload(_ip(network), "saddr"), _network(network)
        case Dst(network=network):
            left, right = _payload(_ip(network), "daddr"), _network(network)
        case SrcPort(protocol=protocol, ports=ports):
            left, right = _payload(protocol, "sport"), _ports(ports)
        case DstPort(protocol=protocol, ports=ports):
            left, right = _payload(protocol, "dport"), _ports(ports)
        case InIface(name=name):
            left, right = {"meta": {"key": "iifname"}}, name
        case OutIface(name=name):
            left, right = {"meta": {"key": "oifname"}}, name
        case PacketMark(mark=mark):
            left, right = _masked(PACKET_MARK, mark), mark.value
        case ConnMark(mark=mark):
            left, right = _masked(CONNECTION_MARK, mark), mark.value
        case SocketUser(user=user):
            left, right = {"meta": {"key": "skuid"}}, user
        case SocketCgroup(level=level, cgroup=cgroup):
            # nft 1.0.6 shows no level, and loads no such match from JSON.
            left, right = {"socket": {"key": "cgroupv2", "level": level}}, cgroup
        case LocalSocket():
            left, right, operator = {"meta": {"key": "skuid"}}, 0, ">="
        case LocalAddress():
            left, right = {"fib": {"result": "type", "flags": ["daddr"]}}, "local"
        case InSet(field=field, name=name):
            left, right = _field(field), f"@{name}"
        case TcpFlags(among=among, set=wanted):
            left, right = {"&": [_payload("tcp", "flags"), _flags(among)]}, _flags(wanted)
        case Foreign(verbatim=verbatim):
            return {"foreign": verbatim}
        case _:
            assert_never(match)
    return {"match": {"op": operator, "left": left, "right": right}}


def _flags(flags: tuple[str, ...]) -> object:
    return flags[0] if len(flags) == 1 else list(flags)


def _mangle(key: Json, mark: Mark) -> Json:
    if mark.mask == FULL_MASK:
        return {"mangle": {"key": key, "value": mark.value}}
    return {"mangle": {"key": key, "value": {"|": [{"&": [key, ~mark.mask & FULL_MASK]}, mark.value]}}}


def _action(action: Action) -> Json:
    if isinstance(action, ReadAction):
        return {"foreign": action_text(action)}
    match action:
        case Accept():
            return {"accept": None}
        case Redirect(port=port):
            return {"redirect": {"port": port}}
        case Dnat(port=port):
            return {"dnat": {"port": port}}
        case Snat(address=address):
            return {"snat": {"family": "ip" if family_of(address) == "ipv4" else "ip6", "addr": str(address)}}
        case SetMark(mark=mark):
            return _mangle(PACKET_MARK, mark)
        case SetConnMark(mark=mark):
            return _mangle(CONNECTION_MARK, mark)
        case CtZone(zone=zone):
            return {"mangle": {"key": {"ct": {"key": "zone", "dir": "original"}}, "value": zone}}
        case Reject(reply=reply):
            return {"reject": _REPLIES[reply]}
        case Foreign(verbatim=verbatim):
            return {"foreign": verbatim}
        case _:
            assert_never(action)
