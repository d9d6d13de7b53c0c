"""What a translated connection's packets look like at each hook: the first, its answer, a later one; as `walk` says.

Rules that only count stand before and behind the place where the kernel translates, one for each end that a packet can
have there. What each has counted must be what walking the three packets says.
"""

import json
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from netns_tests.crossroads import Crossroads, neighbour_address, pod_address, second_address
from netns_tests.namespace import Namespace
from rulesets import nft
from rulesets.model import Chain, Rule, Ruleset, with_counters
from rulesets.packet import Packet, another, answer, looped, walk
from rulesets.vocabulary import (
    Accept,
    Action,
    Address,
    ChainType,
    CtZone,
    Dnat,
    Dst,
    DstPort,
    Hook,
    InIface,
    Match,
    OfFamily,
    PortRange,
    Protocol,
    Redirect,
    Snat,
    Src,
    SrcPort,
    family_of,
    host_network,
)

ASKED, GIVEN, CLIENT = 7001, 7002, 33333
SECONDS = 5.0
FAR = {4: ip_address("10.97.0.9"), 6: ip_address("fd97::9")}
LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}
# Before and behind -100 and 100, whatever priority the nat chain itself has.
BESIDE = {Hook.PREROUTING: (-150, -90), Hook.OUTPUT: (-150, -90), Hook.INPUT: (90, 110), Hook.POSTROUTING: (90, 110)}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A translation, the first packet that gets it, who sends it, and where it arrives."""

    hook: Hook
    priority: int
    action: Action
    packet: Packet
    sender: str
    server: str
    arrives: tuple[Address, int]


def _packet(hook: Hook, source: Address, destination: Address, *, into: str = "", out: str = "", local: bool) -> Packet:
    return Packet(
        hook=hook,
        source=source,
        destination=destination,
        protocol=Protocol.UDP,
        source_port=CLIENT,
        destination_port=ASKED,
        in_interface=into,
        out_interface=out,
        tcp_flags=(),
        user=0 if hook is Hook.OUTPUT else None,
        destination_local=local,
        interface_address=pod_address(into, source.version) if into else None,
    )


def redirected_out(version: int) -> Case:
    return Case(
        hook=Hook.OUTPUT,
        priority=-50,
        action=Redirect(port=GIVEN),
        packet=_packet(Hook.OUTPUT, pod_address("tun0", version), FAR[version], out="tun0", local=False),
        sender="pod",
        server="pod",
        arrives=(LOOPBACK[version], GIVEN),
    )


def sent_to_another_port(version: int) -> Case:
    here, there = pod_address("eth0", version), neighbour_address("eth0", version)
    return Case(
        hook=Hook.PREROUTING,
        priority=-101,
        action=Dnat(port=GIVEN),
        packet=_packet(Hook.PREROUTING, there, here, into="eth0", local=True),
        sender="net",
        server="pod",
        arrives=(here, GIVEN),
    )


def made_to_come_from_elsewhere(version: int) -> Case:
    here, there = pod_address("eth0", version), neighbour_address("eth0", version)
    return Case(
        hook=Hook.POSTROUTING,
        priority=150,
        action=Snat(address=here + 2),
        packet=_packet(Hook.OUTPUT, here, there, out="eth0", local=False),
        sender="pod",
        server="net",
        arrives=(there, ASKED),
    )


def forwarded(version: int) -> Case:
    return Case(
        hook=Hook.POSTROUTING,
        priority=99,
        action=Snat(address=pod_address("tun0", version)),
        packet=_packet(
            Hook.PREROUTING,
            neighbour_address("guest0", version),
            FAR[version],
            into="guest0",
            out="tun0",
            local=False,
        ),
        sender="guest",
        server="net",
        arrives=(FAR[version], ASKED),
    )


CASES: list[Callable[[int], Case]] = [
    redirected_out,
    sent_to_another_port,
    made_to_come_from_elsewhere,
    forwarded,
]


def watching(case: Case) -> Ruleset:
    """Return the translation with a rule for each end that a packet can have, before and behind it."""
    packet = case.packet
    version = packet.source.version
    ends = {
        "client": (packet.source, CLIENT),
        "asked": (packet.destination, ASKED),
        "given": case.arrives,
        "seen": (case.action.address, CLIENT) if isinstance(case.action, Snat) else (second_address(version), CLIENT),
    }
    places = [(hook, priority) for hook, both in BESIDE.items() for priority in both] + [(Hook.FORWARD, 0)]
    chains = [_watch(hook, priority, ends, by_source) for hook, priority in places for by_source in (True, False)]
    of_udp = DstPort(protocol=Protocol.UDP, ports=PortRange(ASKED, ASKED))
    of_family: tuple[Match, ...] = (OfFamily(family=family_of(packet.source)),)
    translating = Rule(slug="translating", matches=(*of_family, of_udp), action=case.action)
    chains.append(Chain(name="nat", type=ChainType.NAT, hook=case.hook, priority=case.priority, rules=(translating,)))
    came_in = [
        Rule(slug=f"posted-{number}", matches=(InIface(name=name), of_udp), action=Accept())
        for number, name in enumerate(("guest0", "eth0", "lo"))
    ]
    # Behind tracking: without effect, the answer is found all the same.
    late = Rule(slug="late-zone", matches=(of_udp,), action=CtZone(zone=7))
    chains += [
        Chain(name="posted", type=ChainType.FILTER, hook=Hook.POSTROUTING, priority=50, rules=tuple(came_in)),
        Chain(name="late-in", type=ChainType.FILTER, hook=Hook.PREROUTING, priority=-140, rules=(late,)),
        Chain(name="late-out", type=ChainType.FILTER, hook=Hook.OUTPUT, priority=-140, rules=(late,)),
    ]
    return with_counters("t", tuple(chains))


def _watch(hook: Hook, priority: int, ends: dict[str, tuple[Address, int]], by_source: bool) -> Chain:
    name = f"{hook}-{abs(priority)}-{'from' if by_source else 'to'}"
    rules = []
    for end, (address, number) in ends.items():
        ports = PortRange(number, number)
        matches: tuple[Match, ...] = (
            (Src(network=host_network(address)), SrcPort(protocol=Protocol.UDP, ports=ports))
            if by_source
            else (Dst(network=host_network(address)), DstPort(protocol=Protocol.UDP, ports=ports))
        )
        rules.append(Rule(slug=f"{name}-{end}", matches=matches, action=Accept()))
    return Chain(name=name, type=ChainType.FILTER, hook=hook, priority=priority, rules=tuple(rules))


def said(ruleset: Ruleset, case: Case, *, translated: bool = True) -> Counter[str]:
    """Return how often each rule is met by a first packet, its answer, and a later one, by walking them.

    If not `translated`, the last two are walked as if nothing were known of their connection.
    """
    met: Counter[str] = Counter()

    def take(packet: Packet) -> Packet:
        verdict = walk(ruleset, packet)
        met.update(each.slug for each in verdict.rules)
        assert (verdict.zone, verdict.reply_zone) == (0, 0)
        if packet.hook is Hook.OUTPUT and verdict.packet.out_interface == "lo":
            verdict = walk(ruleset, looped(verdict))
            met.update(each.slug for each in verdict.rules)
        return verdict.packet

    last = take(case.packet)
    for packet in (answer(case.packet, last), another(case.packet, last)):
        take(packet if translated else replace(packet, translation=None))
    return met


def counted(place: Crossroads, ruleset: Ruleset, case: Case) -> Counter[str]:
    """Return how often each rule was met when these packets were sent."""
    packet = case.packet
    kind = socket.AF_INET if packet.source.version == 4 else socket.AF_INET6
    place.pod.nft(nft.render(ruleset))
    server = _bound(place.stations[case.server], kind, case.arrives)
    client = _bound(place.stations[case.sender], kind, (packet.source, CLIENT))
    with server, client:
        client.sendto(b"first", (str(packet.destination), ASKED))
        _, sender = server.recvfrom(100)
        server.sendto(b"answer", sender)
        client.recvfrom(100)
        client.sendto(b"later", (str(packet.destination), ASKED))
        server.recvfrom(100)
    return Counter({name: packets for name, packets in _counters(place.pod) if packets})


def _bound(namespace: Namespace, kind: int, end: tuple[Address, int]) -> socket.socket:
    sock = namespace.socket(kind, socket.SOCK_DGRAM)
    sock.settimeout(SECONDS)
    sock.bind((str(end[0]), end[1]))
    return sock


def _counters(pod: Namespace) -> Iterator[tuple[str, int]]:
    listed = json.loads(pod.command("nft", "-j", "list", "counters"))["nftables"]
    yield from ((each["counter"]["name"], each["counter"]["packets"]) for each in listed if "counter" in each)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_each_packet_has_the_ends_that_walking_says(make: Callable[[int], Case], version: int) -> None:
    case = make(version)
    ruleset = watching(case)
    with Crossroads() as place:
        was = counted(place, ruleset, case)
    assert was == said(ruleset, case)
    assert was["translating"] == 1
    assert was["late-zone"] > 0
    assert was != said(ruleset, case, translated=False)
