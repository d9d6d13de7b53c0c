"""`packet.walk` against the kernel: where each packet arrives, and its conntrack entry, are as the walk said."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from netns_tests.crossroads import Crossroads, link_of
from netns_tests.observing import Entry, Listeners, Seen, observe
from netns_tests.probes import PROXY_PORTS, Probe, draw, returns
from rulesets import nft, routing
from rulesets.capture import PROBE_SOURCES
from rulesets.model import Ruleset
from rulesets.packet import ConnState, Direction, Fate, Packet, looped, walk
from rulesets.routing import NO_ROUTING, Routing
from rulesets.vocabulary import Family, Hook, InSet, Protocol, Redirect, TcpFlag
from tests import scenarios
from tests.scenarios import Scenario

PACKETS = 1200
NAMES = [each.name for each in scenarios.anywhere()]
# Rules that no packet of these can meet. Answers of connections meet the first, and are walked while comparing; the
# kernel's own resets meet the second. What goes over loopback has been through the nat hook of output, and the kernel
# asks nat chains about a connection's destination once: the last two hold for what was under way when the table came.
NOT_MET = {"reply-to-proxy", "outbound-reset", "inbound-from-proxy", "inbound-loopback"}
SAMPLED = {"inbound-sampled", "outbound-sampled"}  # whether it is the one in so many is nothing that a packet tells


def station_of(packet: Packet, link: str) -> str:
    """Return the namespace that a packet ends in which leaves the pod by a link."""
    if link == "lo":
        return "pod"
    if link in ("guest0", "br-0"):
        return "guest"
    return "net"


def foretell(ruleset: Ruleset, probe: Probe, wanted: Routing, proxy: Listeners) -> Seen:
    """Return what will be seen of a probe, going by the walk alone."""
    verdict = walk(ruleset, probe.packet)
    if verdict.fate is not Fate.ACCEPTED:
        assert verdict.fate in (Fate.REFUSED, Fate.DROPPED), verdict
        told = verdict.fate is Fate.REFUSED and probe.packet.protocol is Protocol.TCP and probe.begins
        return Seen(refused=told)
    last = verdict.packet
    if probe.packet.hook is Hook.OUTPUT:
        to_pod = last.out_interface == "lo" or returns(last, wanted)
        if to_pod:
            last = walk(ruleset, looped(verdict)).packet
    else:
        to_pod = last.destination_local
    station = "pod" if to_pod else station_of(last, last.out_interface)
    mark = last.connection_mark
    if probe.begins and to_pod and last.protocol is Protocol.TCP:
        mark = walk(ruleset, answer(last, proxy)).packet.connection_mark
    entry = Entry(
        source=last.destination,
        source_port=last.destination_port,
        destination=last.source,
        destination_port=last.source_port,
        mark=mark,
        zone=verdict.zone,
    )
    return Seen(arrived=(station, last.destination_port) if probe.begins else None, entry=entry)


def answer(packet: Packet, proxy: Listeners) -> Packet:
    """Return the answer of the listener that a connection's first packet has reached in the pod."""
    bearing = proxy if packet.destination_port in PROXY_PORTS else Listeners()
    link = link_of(packet.source)
    return Packet(
        hook=Hook.OUTPUT,
        source=packet.destination,
        source_port=packet.destination_port,
        destination=packet.source,
        destination_port=packet.source_port,
        out_interface=link,
        mark=bearing.mark,
        user=bearing.user,
        connection_mark=packet.connection_mark,
        tcp_flags=(TcpFlag.SYN, TcpFlag.ACK),
        destination_local=link == "lo",
        state=ConnState.ESTABLISHED,
        direction=Direction.REPLY,
    )


def compare(scenario: Scenario, loaded: Ruleset | None = None) -> list[str]:
    """Send packets through what is loaded (the scenario's own ruleset) and return where the walk was wrong."""
    capture = scenario.capture
    wanted = routing.build(capture, tuple(Family)) if capture else NO_ROUTING
    probes = draw(scenario.name, PACKETS, capture, wanted)
    proxy = Listeners(user=1337)
    if capture is not None and capture.proxy_user is None:
        proxy = Listeners(mark=capture.proxy_mark.value)
    foretold = [foretell(scenario.ruleset, probe, wanted, proxy) for probe in probes]
    with Crossroads(also_returned_to_pod=() if capture else PROBE_SOURCES) as place:
        place.route_replies(wanted)
        place.pod.nft(nft.render(loaded or scenario.ruleset))
        seen = observe(place, probes, proxy, arriving=sum(each.arrived is not None for each in foretold))
    return [
        f"{probe}\n  by {[met.slug for met in walk(scenario.ruleset, probe.packet).rules]}\n  said {said}\n  was  {was}"
        for probe, said, was in zip(probes, foretold, seen, strict=True)
        if said != was
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_packet_fares_as_the_walk_says(name: str) -> None:
    wrong = compare(scenarios.load(name))
    assert not wrong, f"{len(wrong)} of {PACKETS}:\n" + "\n".join(wrong[:10])


@pytest.mark.parametrize("name", NAMES)
def test_the_packets_meet_every_rule(name: str) -> None:
    scenario = scenarios.load(name)
    wanted = routing.build(scenario.capture, tuple(Family)) if scenario.capture else NO_ROUTING
    met = {
        each.slug
        for probe in draw(scenario.name, PACKETS, scenario.capture, wanted)
        for each in walk(scenario.ruleset, probe.packet).rules
    }
    empty = {each.name for each in scenario.ruleset.sets if not each.elements}
    looking = {
        match.name: rule.slug for rule in scenario.ruleset.rules() for match in rule.matches if isinstance(match, InSet)
    }
    nothing_to_find = {slug for name, slug in looking.items() if name in empty}
    assert {rule.slug for rule in scenario.ruleset.rules()} - met <= NOT_MET | SAMPLED | nothing_to_find


def test_one_wrong_rule_is_noticed() -> None:
    scenario = scenarios.load("dual-stack")
    chains = tuple(
        replace(
            chain,
            rules=tuple(
                replace(rule, action=Redirect(port=15006)) if rule.slug == "outbound-redirect" else rule
                for rule in chain.rules
            ),
        )
        for chain in scenario.ruleset.chains
    )
    wrong = compare(scenario, loaded=replace(scenario.ruleset, chains=chains))
    assert wrong
    assert all("outbound-redirect" in each and "15006" in each for each in wrong)


def test_one_missing_rule_is_noticed() -> None:
    scenario = scenarios.load("dual-stack")
    probe = ip_address("169.254.7.127")
    chains = tuple(
        replace(chain, rules=tuple(rule for rule in chain.rules if rule.slug != "inbound-probe"))
        for chain in scenario.ruleset.chains
    )
    wrong = compare(scenario, loaded=replace(scenario.ruleset, chains=chains))
    assert wrong
    assert any(str(probe) in each for each in wrong)
    assert all("inbound-probe" in each for each in wrong)
