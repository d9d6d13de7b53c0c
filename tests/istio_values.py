"""The rules that Istio's node agent writes into an ambient pod, as values: its three nft tables, dual-stack.

From nftables.go of its CNI node agent, the same that `netns_tests/istio_rules.py` has as text.
"""

from ipaddress import ip_network

from rulesets.capture import PROBE_SOURCES
from rulesets.model import Chain, Count, RegularChain, Rule, Ruleset
from rulesets.vocabulary import (
    Accept,
    Action,
    ChainType,
    ConnMark,
    CtZoneBoth,
    Dst,
    DstPort,
    Hook,
    InIface,
    Jump,
    Mark,
    Match,
    Network,
    OutIface,
    PacketMark,
    PortRange,
    Proto,
    Protocol,
    Redirect,
    RestoreMark,
    Return,
    SetConnMark,
    Src,
    SrcPort,
    host_network,
)

__all__ = ["istio_tables"]

TCP = Proto(protocol=Protocol.TCP)
PROXY, NOT_PROXY = PacketMark(mark=Mark(0x539, 0xFFF)), PacketMark(mark=Mark(0x539, 0xFFF), negate=True)
MARKED = Mark(0x111, 0xFFF)
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.1/32"), ip_network("::1/128"))


def istio_tables(
    *, dns: bool = True, ingress: bool = False, virtual_interfaces: tuple[str, ...] = ()
) -> tuple[Ruleset, ...]:
    """Return the tables for a pod's settings: nat, mangle, and raw where DNS is captured."""
    guests = [
        rule(InIface(name=name), TCP, action=action)
        for name in virtual_interfaces
        for action in (Redirect(port=15001), Return())
    ]
    inbound = [rule(TCP, Src(network=host_network(each)), action=Accept()) for each in PROBE_SOURCES]
    inbound += [
        rule(
            Dst(network=each, negate=True),
            port(Protocol.TCP, 15008, negate=True),
            NOT_PROXY,
            action=Redirect(port=15006),
        )
        for each in LOOPBACK
    ]
    outbound = [rule(TCP, Dst(network=host_network(each)), action=Accept()) for each in PROBE_SOURCES]
    if dns:
        outgoing = OutIface(name="lo", negate=True)
        outbound += [rule(outgoing, NOT_PROXY, port(Protocol.UDP, 53), action=Redirect(port=15053))]
        outbound += [
            rule(Dst(network=each, negate=True), port(Protocol.TCP, 53), NOT_PROXY, action=Redirect(port=15053))
            for each in LOOPBACK
        ]
    outbound += [rule(TCP, PacketMark(mark=MARKED), action=Accept())]
    outbound += [rule(OutIface(name="lo"), Dst(network=each, negate=True), action=Accept()) for each in LOOPBACK]
    outbound += [rule(TCP, Dst(network=each, negate=True), NOT_PROXY, action=Redirect(port=15001)) for each in LOOPBACK]
    nat = _table("nat", ChainType.NAT, ChainType.NAT, -100, [*guests, *([] if ingress else inbound)], outbound)
    marking = [rule(PROXY, action=SetConnMark(mark=MARKED))]
    restoring = [rule(ConnMark(mark=MARKED), action=RestoreMark())]
    mangle = _table("mangle", ChainType.FILTER, ChainType.ROUTE, -150, marking, restoring)
    if not dns:
        return nat, mangle
    answers = SrcPort(protocol=Protocol.UDP, ports=PortRange(53, 53))
    zone = CtZoneBoth(zone=1)
    raw = _table(
        "raw",
        ChainType.FILTER,
        ChainType.FILTER,
        -300,
        [rule(answers, NOT_PROXY, action=zone)],
        [rule(port(Protocol.UDP, 53), PROXY, action=zone)],
    )
    return nat, mangle, raw


def rule(*matches: Match, action: Action) -> Rule:
    return Rule(slug="", matches=matches, action=action, count=Count())


def port(protocol: Protocol, number: int, *, negate: bool = False) -> DstPort:
    return DstPort(protocol=protocol, ports=PortRange(number, number), negate=negate)


def _table(
    name: str, arriving: ChainType, leaving: ChainType, priority: int, prerouting: list[Rule], output: list[Rule]
) -> Ruleset:
    hooks = ((Hook.PREROUTING, arriving, prerouting), (Hook.OUTPUT, leaving, output))
    return Ruleset(
        table=f"istio-ambient-{name}",
        chains=tuple(
            Chain(name=hook, type=kind, hook=hook, priority=priority, rules=(rule(action=Jump(chain=f"istio-{hook}")),))
            for hook, kind, _ in hooks
        ),
        regular=tuple(RegularChain(name=f"istio-{hook}", rules=tuple(rules)) for hook, _, rules in hooks),
    )
