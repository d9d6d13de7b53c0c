"""Annotations: what Istio accepts means what it means there, and what nobody can mean is refused by its name."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from agent.sources.kubernetes.annotations import LONGEST, READERS, asked
from rulesets import nft, pod
from rulesets.capture import ALL_NETWORKS, Capture
from rulesets.vocabulary import Family, PortRange
from tests.annotation_names import BYPASS, DNS, VIRTUAL, T, refused

NETS = [
    "include_outbound_networks",
    "exclude_outbound_networks",
    "include_inbound_networks",
    "exclude_inbound_networks",
]


def test_every_annotation_is_one_that_the_issue_names() -> None:
    ways = [
        f"{T}{kind}{way}{what}"
        for kind in ("include", "exclude")
        for way in ("Inbound", "Outbound")
        for what in ("Ports", "IPRanges")
    ]
    assert set(READERS) == {BYPASS, DNS, VIRTUAL, f"{T}excludeInterfaces", *ways}


def test_without_annotations_the_defaults_hold() -> None:
    defaults = Capture(dns=False, exclude_inbound_ports=(PortRange(22, 22),))
    assert asked({}).capture == Capture()
    assert asked({"sidecar.istio.io/inject": "false", "unknown/thing": "\n"}, defaults).capture == defaults
    # What Weir writes is no wish (a status that is read as an input never heals).
    assert asked({"ambient.istio.io/redirection": "disabled"}) == asked({})


# Ambient's own overrides, as in net_test.go: what Istio can't read it passes over, and Weir refuses.
@pytest.mark.parametrize("true", ["true", "True", "TRUE", "t", "T", "1"])
@pytest.mark.parametrize("false", ["false", "False", "FALSE", "f", "F", "0"])
def test_switches_take_what_go_takes(true: str, false: str) -> None:
    assert asked({BYPASS: true, DNS: false}).capture == Capture(ingress=True, dns=False)
    assert asked({BYPASS: false, DNS: true}, Capture(ingress=True, dns=False)).capture == Capture()


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("", ()),
        ("eth1", ("eth1",)),
        (" eth1 ,eth2,, ", ("eth1", "eth2")),
        ("fake1s0f0,fake1s0f1", ("fake1s0f0", "fake1s0f1")),
        ("br-+", ("br-*",)),
        ("br-*", ("br-*",)),
    ],
)
def test_interfaces(value: str, names: tuple[str, ...]) -> None:
    assert asked({VIRTUAL: value}).capture.virtual_interfaces == names
    assert asked({f"{T}excludeInterfaces": value}).capture.exclude_interfaces == names


def test_the_loopback_interface_is_excluded_anyway_and_never_rerouted() -> None:
    assert asked({f"{T}excludeInterfaces": "lo,eth1"}).capture.exclude_interfaces == ("eth1",)
    assert refused({VIRTUAL: "lo"}).reason == "is the loopback interface, which is never captured"


@pytest.mark.parametrize(
    ("value", "ports"),
    [
        ("80", [(80, 80)]),
        ("443,80,81", [(80, 81), (443, 443)]),
        (" 80 , 443 ", [(80, 80), (443, 443)]),
        ("80,\n443\n", [(80, 80), (443, 443)]),
        ("00080", [(80, 80)]),
        ("80,80", [(80, 80)]),
        ("8000-8100", [(8000, 8100)]),
        ("0,65535", [(65535, 65535)]),
    ],
)
@pytest.mark.parametrize("way", ["Inbound", "Outbound"])
def test_ports(way: str, value: str, ports: list[tuple[int, int]]) -> None:
    expected = tuple(PortRange(*each) for each in ports)
    assert getattr(asked({f"{T}exclude{way}Ports": value}).capture, f"exclude_{way.lower()}_ports") == expected
    only = {f"{T}include{way}Ports": value, f"{T}includeOutboundIPRanges": "" if way == "Outbound" else "*"}
    assert getattr(asked(only).capture, f"include_{way.lower()}_ports") == expected


@pytest.mark.parametrize(
    ("value", "networks"),
    [
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        ("10.1.2.3/8", ["10.0.0.0/8"]),  # as the kernel cuts it
        ("10.0.0.0/8, 192.168.0.0/16,fd00::/8", ["10.0.0.0/8", "192.168.0.0/16", "fd00::/8"]),
        ("10.0.0.1", ["10.0.0.1/32"]),
        ("fd00::1/64", ["fd00::/64"]),
        ("10.0.0.0/9,10.128.0.0/9", ["10.0.0.0/8"]),
    ],
)
def test_networks(value: str, networks: list[str]) -> None:
    expected = tuple(map(ip_network, networks))
    for setting in NETS:
        kind, way, _ = setting.split("_")
        assert getattr(asked({f"{T}{kind}{way.title()}IPRanges": value}).capture, setting) == expected


def test_ten_thousand_networks_are_read() -> None:
    value = ",".join(f"10.{n >> 8}.{n & 255}.0/25" for n in range(10_000))
    assert len(asked({f"{T}excludeOutboundIPRanges": value}).capture.exclude_outbound_networks) == 10_000
    long = refused({f"{T}excludeOutboundIPRanges": value + " " * LONGEST})
    assert long.reason == f"has {len(value) + LONGEST} characters, and Kubernetes allows {LONGEST}"


# Everything and nothing, as the rules of istio-iptables are (capture/run.go).
@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"includeOutboundIPRanges": "*"}, {}),
        ({"includeInboundPorts": "*"}, {}),
        ({"includeInboundIPRanges": "*"}, {}),
        ({"includeOutboundPorts": ""}, {}),
        ({"includeOutboundPorts": "*", "includeOutboundIPRanges": ""}, {}),
        ({"includeOutboundPorts": "*", "includeOutboundIPRanges": "10.0.0.0/8"}, {}),
        ({"excludeOutboundPorts": "", "excludeInboundPorts": "", "excludeOutboundIPRanges": ""}, {}),
        ({"includeOutboundIPRanges": ""}, {"outbound": False, "dns": False}),
        ({"includeOutboundIPRanges": "", "includeOutboundPorts": ""}, {"outbound": False, "dns": False}),
        # HBONE still comes in, so the way back must be there: only the redirect goes.
        ({"includeInboundPorts": ""}, {"ingress": True}),
        ({"includeInboundPorts": "0"}, {"ingress": True}),
        ({"includeInboundIPRanges": ""}, {"ingress": True}),
        (
            {"includeInboundPorts": "", "includeOutboundIPRanges": ""},
            {"ingress": True, "outbound": False, "dns": False},
        ),
        (
            {"includeOutboundIPRanges": "", "includeOutboundPorts": "4317"},
            {"include_outbound_ports": (PortRange(4317, 4317),)},
        ),
        ({"includeOutboundIPRanges": "0.0.0.0/0"}, {"include_outbound_networks": (ip_network("0.0.0.0/0"),)}),
        ({"excludeOutboundPorts": "53"}, {"exclude_outbound_ports": (PortRange(53, 53),), "dns": False}),
        ({"excludeOutboundPorts": "50-60"}, {"exclude_outbound_ports": (PortRange(50, 60),), "dns": False}),
    ],
)
def test_everything_and_nothing(annotations: dict[str, str], expected: dict[str, object]) -> None:
    found = asked({f"{T}{name}": value for name, value in annotations.items()})
    assert found.capture == replace(Capture(), **expected)  # type: ignore[arg-type]


def test_ports_that_are_included_add_nothing_to_everything() -> None:
    """As in Istio, to the surprise of many; the note says it."""
    for more in ({}, {f"{T}includeOutboundIPRanges": "*"}):
        found = asked({f"{T}includeOutboundPorts": "443", **more})
        assert found.capture == Capture()
        assert found.notes[0].startswith(f"{T}includeOutboundPorts adds nothing: ")


def test_ports_or_networks_cant_be_said_and_is_refused() -> None:
    error = refused({f"{T}includeOutboundPorts": "443,80", f"{T}includeOutboundIPRanges": "10.0.0.0/8"})
    assert str(error).startswith(f"{T}includeOutboundPorts = '443,80': means these ports of every address as well as ")


def test_excluded_inbound_ports_count_only_while_all_are_included() -> None:
    found = asked({f"{T}includeInboundPorts": "80,90", f"{T}excludeInboundPorts": "90"})
    assert found.capture == Capture(include_inbound_ports=(PortRange(80, 80), PortRange(90, 90)))
    assert "excludeInboundPorts has no effect" in found.notes[0]
    both = asked({f"{T}includeInboundPorts": "*", f"{T}excludeInboundPorts": "90"})
    assert both.capture.exclude_inbound_ports == (PortRange(90, 90),)


def test_dns_goes_with_what_it_needs_unless_it_was_asked_for() -> None:
    found = asked({f"{T}excludeOutboundPorts": "53"})
    assert found.notes == (f"DNS is not captured: {T}excludeOutboundPorts holds 53",)
    for name, value in (("excludeOutboundPorts", "53"), ("includeOutboundIPRanges", "")):
        error = refused({f"{T}{name}": value, DNS: "true"})
        assert str(error).startswith(f"{DNS} = 'true': contradicts {T}{name}")
        assert not asked({f"{T}{name}": value, DNS: "false"}).notes


def test_a_mistyped_annotation_is_noted() -> None:
    assert asked({f"{T}excludeOutboundPort": "80"}).notes == (
        f"'{T}excludeOutboundPort' is not read: did you mean {T}excludeOutboundPorts?",
    )
    assert not asked({f"{T}kubevirtInterfaces": "net1", "istio.io/rev": "x", "ambient.istio.io/redirection": "e"}).notes


def test_what_defaults_turn_off_stays_off() -> None:
    outbound_only = Capture(inbound=False)
    assert asked({BYPASS: "true", f"{T}includeInboundPorts": ""}, outbound_only).capture == outbound_only
    error = refused({DNS: "true"}, Capture(outbound=False, dns=False))
    assert str(error) == f"{DNS} = 'true': queries are outbound, and outbound is off"


def test_ranges_of_one_family_leave_the_other_alone() -> None:
    found = asked({f"{T}includeOutboundIPRanges": "10.0.0.0/8"}).capture
    assert found.captured_families == tuple(Family)
    assert "outbound-not-included-network" in nft.render(pod.build(found))
    assert asked({f"{T}includeOutboundIPRanges": "*"}).capture.include_outbound_networks == ALL_NETWORKS
