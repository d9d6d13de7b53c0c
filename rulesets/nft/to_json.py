"""Rulesets as the JSON that ``nft -j -f`` loads and ``nft -j list`` prints (libnftables-json(5))."""

import json
from collections.abc import Iterator
from typing import assert_never

from rulesets.model import AddressPort, AddressRange, Chain, Element, RegularChain, Rule, Ruleset, Set
from rulesets.nft.read import action_text, match_text
from rulesets.nft.read_json import (
    CONNECTION_MARK,
    PACKET_MARK,
    Json,
    action_json,
    compared,
    match_json,
    payload,
    ports_json,
)
from rulesets.vocabulary import (
    FULL_MASK,
    Accept,
    Action,
    Comment,
    ConnMark,
    Continue,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Foreign,
    InIface,
    InSet,
    Limited,
    LocalAddress,
    LocalSocket,
    Mark,
    Match,
    Network,
    OfFamily,
    OneOf,
    OutIface,
    PacketMark,
    PortRange,
    Proto,
    ReadAction,
    ReadMatch,
    Redirect,
    Reject,
    RejectWith,
    Sampled,
    SetConnMark,
    SetField,
    SetMark,
    Snat,
    SocketCgroup,
    SocketUser,
    Src,
    SrcPort,
    TcpFlags,
    Trace,
    family_of,
)

_REPLIES: dict[RejectWith, Json] = {
    RejectWith.TCP_RESET: {"type": "tcp reset"},
    RejectWith.PORT_UNREACHABLE: {"type": "icmpx", "expr": "port-unreachable"},
}


def render_json(ruleset: Ruleset) -> str:
    """Return the whole ruleset as one JSON document, commands in the order in which nft must read them.

    What was read from others' tables and has no variant stands there as it was listed.
    """
    return json.dumps({"nftables": list(_objects(ruleset))}, indent=2) + "\n"


def _objects(ruleset: Ruleset) -> Iterator[Json]:
    place: Json = {"family": ruleset.nft_family, "table": ruleset.table}
    more: Json = {"flags": list(ruleset.flags)} if ruleset.flags else {}
    more |= {"comment": ruleset.comment} if ruleset.comment else {}
    yield {"table": {"family": ruleset.nft_family, "name": ruleset.table, **more}}
    for counter in ruleset.counters:
        yield {"counter": {**place, "name": counter.name, "packets": counter.packets, "bytes": counter.bytes}}
    chains = ruleset.ordered()
    declared: list[Json] = [{"chain": {**place, **_chain(chain)}} for chain in chains]
    if ruleset.theirs:
        # The elements of a map may lead to chains.
        yield from declared
        yield from (json.loads(each.verbatim) for each in (*ruleset.objects, *ruleset.foreign))
    for each in ruleset.sets:
        yield {"set": {**place, **_set(each)}}
    if not ruleset.theirs:
        yield from declared
    for chain in chains:
        for rule in chain.rules:
            comment = _comment(rule)
            shown: Json = {"comment": comment} if comment else {}
            yield {"rule": {**place, "chain": chain.name, **shown, "expr": _rule(rule)}}


def _chain(chain: Chain | RegularChain) -> Json:
    named: Json = {"name": chain.name, **({"comment": chain.comment} if chain.comment else {})}
    if isinstance(chain, RegularChain):
        return named
    return {**named, "type": chain.type, "hook": chain.hook, "prio": chain.priority, "policy": chain.policy}


def _comment(rule: Rule) -> str:
    last = rule.matches[-1] if rule.matches else None
    return last.text if not rule.slug and isinstance(last, Comment) else rule.slug


def _set(each: Set) -> Json:
    types = each.key.split(" . ")
    shown: Json = {"name": each.name, "type": types[0] if len(types) == 1 else types}
    if each.interval:
        shown["flags"] = ["interval"]
    if each.size is not None:
        shown["size"] = each.size
    if each.comment:
        shown["comment"] = each.comment
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
    if rule.count is None:
        return [*map(_match, rule.matches), {"counter": rule.slug}, _action(rule.action)]
    count: list[Json] = []
    if rule.count.counts:
        count = [{"counter": {"packets": rule.count.packets, "bytes": rule.count.bytes}}]
    matches = rule.matches[:-1] if rule.matches and isinstance(rule.matches[-1], Comment) else rule.matches
    parts = [part for match in matches for part in _as_listed(match)]
    return [*parts, *count, *(() if rule.action == Continue() else _as_listed(rule.action))]


def _as_listed(part: Match | Action) -> list[Json]:
    """Return the statements of a part of others' rules; what is foreign is one or several, verbatim."""
    if not isinstance(part, Foreign):
        return [_match(part) if isinstance(part, Match) else _action(part)]
    try:
        said = json.loads(part.verbatim)
    except ValueError:
        return [{"foreign": part.verbatim}]
    return said if isinstance(said, list) else [said]


def _masked(key: Json, mark: Mark) -> Json:
    return key if mark.mask == FULL_MASK else {"&": [key, mark.mask]}


def _ip(network: Network) -> str:
    return "ip" if network.version == 4 else "ip6"


def _field(field: SetField) -> Json:
    parts = [payload(*part.split()) for part in field.split(" . ")]
    return parts[0] if len(parts) == 1 else {"concat": parts}


def _match(match: Match) -> Json:
    left: Json
    right: object
    if isinstance(match, ReadMatch):
        return match_json(match) or {"foreign": match_text(match)}
    operator = "!=" if getattr(match, "negate", False) else "=="
    match match:
        case OfFamily(family=family):
            left, right = {"meta": {"key": "nfproto"}}, family
        case Proto(protocol=protocol):
            left, right = {"meta": {"key": "l4proto"}}, protocol
        case Src(network=network):
            left, right = payload(_ip(network), "saddr"), _network(network)
        case Dst(network=network):
            left, right = payload(_ip(network), "daddr"), _network(network)
        case SrcPort(protocol=protocol, ports=ports):
            left, right = payload(protocol, "sport"), ports_json(ports)
        case DstPort(protocol=protocol, ports=ports):
            left, right = payload(protocol, "dport"), ports_json(ports)
        case InIface(name=name, by_index=by_index):
            left, right = {"meta": {"key": "iif" if by_index else "iifname"}}, name
        case OutIface(name=name, by_index=by_index):
            left, right = {"meta": {"key": "oif" if by_index else "oifname"}}, name
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
            left, right = {"&": [payload("tcp", "flags"), _flags(among)]}, _flags(wanted)
        case Sampled(one_in=number):
            left, right = {"numgen": {"mode": "random", "mod": number, "offset": 0}}, 0
        case Limited(per_second=number, burst=burst):
            return {"limit": {"rate": number, "burst": burst, "per": "second"}}
        case OneOf(matches=matches):
            sides = [_sides(_match(each)) for each in matches]
            left, right = sides[0][0], {"set": [value for _, value in sides]}
        case Foreign(verbatim=verbatim):
            return {"foreign": verbatim}
        case _:
            assert_never(match)
    return compared(left, right, operator)


def _sides(statement: Json) -> tuple[Json, object]:
    match statement:
        case {"match": {"left": dict(left), "right": right}}:
            return left, right
        case _:
            raise AssertionError("an anonymous set holds values of a field")


def _flags(flags: tuple[str, ...]) -> object:
    return flags[0] if len(flags) == 1 else list(flags)


def _mangle(key: Json, mark: Mark) -> Json:
    if mark.mask == FULL_MASK:
        return {"mangle": {"key": key, "value": mark.value}}
    return {"mangle": {"key": key, "value": {"|": [{"&": [key, ~mark.mask & FULL_MASK]}, mark.value]}}}


def _action(action: Action) -> Json:
    if isinstance(action, ReadAction):
        return action_json(action) or {"foreign": action_text(action)}
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
        case Trace():
            return {"mangle": {"key": {"meta": {"key": "nftrace"}}, "value": 1}}
        case Foreign(verbatim=verbatim):
            return {"foreign": verbatim}
        case _:
            assert_never(action)
