"""A pod with Weir's rules and one with Istio's: packets arrive at the same place, with the same conntrack entry.

What differs is wanted, and listed here with its reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from netns_tests.crossroads import Crossroads, pod_address, second_address
from netns_tests.istio_rules import istio_rules
from netns_tests.observing import Listeners, Seen, observe
from netns_tests.probes import Probe, draw
from rulesets import nft, pod, routing
from rulesets.capture import Capture
from rulesets.vocabulary import Family, Hook, Protocol

PACKETS = 1200
GUESTS = ("guest0", "br-0")
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "dns off": {"dns": False},
    "ingress": {"ingress": True},
    "virtual interfaces": {"virtual_interfaces": GUESTS},
    "both": {"ingress": True, "virtual_interfaces": GUESTS},
}


def is_forwarded(probe: Probe, weir: Seen, istio: Seen) -> bool:
    """Traffic that only passes through is not the pod's: Weir leaves it, Istio sends it to the inbound port."""
    one = probe.packet
    if one.hook is not Hook.PREROUTING or one.destination_local or weir.entry is None or istio.entry is None:
        return False
    untouched = (weir.entry.source, weir.entry.source_port) == (one.destination, one.destination_port)
    return untouched and istio.entry.source_port == 15006


def keeps_address(probe: Probe, weir: Seen, istio: Seen) -> bool:
    """Istio's redirect also rewrites the destination to one address of the interface; Weir changes the port alone."""
    one = probe.packet
    if one.hook is not Hook.PREROUTING or weir.entry is None or istio.entry is None or weir.entry.source_port != 15006:
        return False
    of_interface = {pod_address(one.in_interface, version) for version in (4, 6)}
    if one.in_interface == "eth0":
        of_interface |= {second_address(version) for version in (4, 6)}
    kept = replace(istio, entry=replace(istio.entry, source=one.destination))
    return istio.entry.source in of_interface and weir == kept


def zones_one_way(probe: Probe, weir: Seen, istio: Seen) -> bool:
    """Istio puts both directions of the proxy's queries into zone 1, Weir the first: the ports clash in that alone."""
    one = probe.packet
    query = one.hook is Hook.OUTPUT and one.protocol is Protocol.UDP and one.destination_port == 53
    return bool(query and weir.entry and istio.entry == replace(weir.entry, reply_zone=1) and weir.entry.zone == 1)


# Each by its reason, which is its docstring.
WANTED: dict[str, Callable[[Probe, Seen, Seen], bool]] = {
    "forwarded traffic is left alone": is_forwarded,
    "the address asked for is kept": keeps_address,
    "the zone has one direction": zones_one_way,
}


def compare(name: str, weir_rules: str) -> tuple[list[str], set[str]]:
    """Return the differences that nothing explains, and the reasons of the others."""
    case = CASES[name]
    capture = capture_of(case)
    wanted = routing.build(capture, tuple(Family))
    probes = draw(f"istio, {name}", PACKETS, capture, wanted)
    both = []
    for rules in (weir_rules, istio_rules(**case)):
        with Crossroads() as place:
            place.route_replies(wanted)
            place.pod.nft(rules)
            begins = sum(probe.begins for probe in probes)
            both.append(observe(place, probes, Listeners(mark=0x539), arriving=begins))
    unwanted, met = [], set()
    for probe, weir, istio in zip(probes, *both, strict=True):
        reasons = {reason for reason, explains in WANTED.items() if weir != istio and explains(probe, weir, istio)}
        met |= reasons
        if weir != istio and not reasons:
            unwanted.append(f"{probe}\n  weir  {weir}\n  istio {istio}")
    return unwanted, met


def capture_of(case: Mapping[str, Any]) -> Capture:
    return Capture.parse({key: list(value) if isinstance(value, tuple) else value for key, value in case.items()})


@pytest.mark.parametrize("name", CASES)
def test_packets_fare_alike_but_where_wanted(name: str) -> None:
    unwanted, met = compare(name, nft.render(pod.build(capture_of(CASES[name]))))
    assert not unwanted, f"{len(unwanted)} of {PACKETS}:\n" + "\n".join(unwanted[:10])
    if name == "default":
        assert met == set(WANTED), "a difference that is never seen is no difference"


def test_another_port_would_be_noticed() -> None:
    unwanted, _ = compare("default", nft.render(pod.build(Capture(outbound_port=25001))))
    assert unwanted
    assert all("25001" in each for each in unwanted)
