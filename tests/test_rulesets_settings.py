"""Settings that can't be used: each error names the setting, the value and the reason."""

from ipaddress import ip_network
from typing import Any

import pytest

from rulesets.capture import ALL_NETWORKS, ALL_PORTS, Capture
from rulesets.settings import CaptureError
from rulesets.vocabulary import Family, Mark, PortRange

# Settings, the one that is complained of, the value as it was given, and words of the reason.
REFUSED: list[tuple[dict[str, Any], str, Any, str]] = [
    ({"outbound_port": 0}, "outbound_port", 0, "is not within 1 to 65535"),
    ({"outbound_port": 65536}, "outbound_port", 65536, "is not within 1 to 65535"),
    ({"inbound_port": -1}, "inbound_port", -1, "is not within 1 to 65535"),
    ({"inbound_port": 10**400}, "inbound_port", 10**400, "is not within 1 to 65535"),
    ({"hbone_port": "15008"}, "hbone_port", "15008", "wants a whole number"),
    ({"dns_port": 15053.0}, "dns_port", 15053.0, "wants a whole number"),
    ({"outbound_port": True}, "outbound_port", True, "wants a whole number"),
    ({"outbound_port": None}, "outbound_port", None, "wants a whole number"),
    ({"inbound_port": 15001}, "inbound_port", 15001, "outbound_port uses the same port"),
    ({"dns_port": 15008}, "dns_port", 15008, "one port can't do two jobs"),
    ({"dns": 1}, "dns", 1, "wants true or false"),
    ({"inbound": "false"}, "inbound", "false", "wants true or false"),
    ({"ingress": []}, "ingress", [], "wants true or false"),
    ({"ingress": True, "inbound": False}, "ingress", True, "inbound is off already"),
    ({"outbound": False}, "dns", True, "outbound is off"),
    ({"outbound": False, "inbound": False, "dns": False}, "inbound", False, "nothing is left to capture"),
    ({"proxy_mark": "0x1539/0xfff"}, "proxy_mark", "0x1539/0xfff", "bits outside its mask"),
    ({"proxy_mark": "0x1ffffffff"}, "proxy_mark", "0x1ffffffff", ""),
    ({"proxy_mark": 2**32}, "proxy_mark", str(2**32), "more than 32 bits"),
    ({"proxy_mark": "mark"}, "proxy_mark", "mark", ""),
    ({"proxy_mark": "1/2/3"}, "proxy_mark", "1/2/3", ""),
    ({"proxy_mark": ""}, "proxy_mark", "", ""),
    ({"proxy_mark": "٣"}, "proxy_mark", "٣", ""),
    ({"proxy_mark": "0x539/0"}, "proxy_mark", "0x539/0", ""),
    ({"proxy_mark": "0x0/0xfff"}, "proxy_mark", "0x0/0xfff", "zero is what every packet carries"),
    ({"proxy_mark": "1 accept"}, "proxy_mark", "1 accept", ""),
    ({"connection_mark": "0x539/0xfff"}, "connection_mark", "0x539/0xfff", "can't be told from proxy_mark"),
    ({"connection_mark": "0x800/0x800"}, "connection_mark", "0x800/0x800", "needs two bits"),
    ({"proxy_user": -1}, "proxy_user", -1, "is not within 0 to 4294967294"),
    ({"proxy_user": 2**32 - 1}, "proxy_user", 2**32 - 1, "is not within"),
    *[
        ({"proxy_cgroup": value}, "proxy_cgroup", value, said)
        for value, said in (
            (7, "wants the path of a cgroup"),
            ("", "is empty"),
            ("/", "is not: a path from the root"),
            ("/system.slice/x.service", "write system.slice/x.service: a path from the root"),
            ("/sys/fs/cgroup/a/b", "write a/b:"),
            ("/sys/fs/cgroup/unified/a/b", "write a/b:"),
            ("/sys/fs/cgroup", "is not:"),
            ("/sys/fs/cgroup/../../etc", "is not:"),
            ("a/../../etc", "a . or .. in it"),
            ("./a", "a . or .. in it"),
            ("a//b", "a slash too many"),
            ("a/", "a slash too many"),
            ("a\0b", "a character that nft can't write"),
            ('a" accept #', "a character that nft can't write"),
            ("it's", "a character that nft can't write"),
            ("a b", "a character that nft can't write"),
            ("a*", "a character that nft can't write"),
            ("a\nb", "a character that nft can't write"),
            ("dé", "a character that nft can't write"),
            ("/".join("a" * 256), "is 256 levels deep"),
            ("a" * 256, "is too long"),
            ("/".join(["a" * 255] * 16), "is too long"),
        )
    ],
    ({"proxy_user": "istio"}, "proxy_user", "istio", "wants a whole number"),
    ({"probe_sources": "10.0.0.1"}, "probe_sources", "10.0.0.1", "wants a list"),
    ({"probe_sources": ["10.0.0.0/8"]}, "probe_sources", "10.0.0.0/8", "is not an IPv4 or IPv6 address"),
    ({"probe_sources": ["::ffff:10.0.0.1"]}, "probe_sources", "::ffff:10.0.0.1", "is IPv4-mapped; write 10.0.0.1"),
    ({"probe_sources": ["fe80::1%eth0"]}, "probe_sources", "fe80::1%eth0", "names an interface"),
    ({"probe_sources": [167772161]}, "probe_sources", 167772161, "is not an IPv4 or IPv6 address"),
    ({"probe_sources": ["010.0.0.1"]}, "probe_sources", "010.0.0.1", "is not an IPv4 or IPv6 address"),
    ({"virtual_interfaces": "eth1"}, "virtual_interfaces", "eth1", "wants a list"),
    ({"virtual_interfaces": ["eth 1"]}, "virtual_interfaces", "eth 1", "a character that no interface name has"),
    ({"virtual_interfaces": ["a/b"]}, "virtual_interfaces", "a/b", "a character that no interface name has"),
    ({"virtual_interfaces": ["a:b"]}, "virtual_interfaces", "a:b", "a character that no interface name has"),
    ({"virtual_interfaces": ["eth0123456789abc"]}, "virtual_interfaces", "eth0123456789abc", "has 16 characters"),
    ({"virtual_interfaces": ["eth0123456789ab*"]}, "virtual_interfaces", "eth0123456789ab*", "has 16 characters"),
    ({"exclude_interfaces": ["*"]}, "exclude_interfaces", "*", "would be every interface"),
    ({"exclude_interfaces": [""]}, "exclude_interfaces", "", "is empty"),
    ({"exclude_interfaces": ["e*h0"]}, "exclude_interfaces", "e*h0", "a character that no interface name has"),
    ({"exclude_interfaces": ["lo"]}, "exclude_interfaces", "lo", "is the loopback interface"),
    ({"exclude_interfaces": [".."]}, "exclude_interfaces", "..", ""),
    ({"exclude_interfaces": ["@guests"]}, "exclude_interfaces", "@guests", "the name of a set"),
    ({"exclude_interfaces": ['a" accept #']}, "exclude_interfaces", 'a" accept #', "a character that no"),
    ({"exclude_interfaces": ["a\ninclude"]}, "exclude_interfaces", "a\ninclude", "a character that no"),
    ({"exclude_interfaces": ["a\\"]}, "exclude_interfaces", "a\\", "a character that no"),
    ({"exclude_interfaces": ["ethо"]}, "exclude_interfaces", "ethо", "a character that no"),  # noqa: RUF001 (Cyrillic)
    ({"exclude_interfaces": [3]}, "exclude_interfaces", 3, "is no interface name"),
    ({"exclude_outbound_ports": 80}, "exclude_outbound_ports", 80, "wants a list"),
    ({"exclude_outbound_ports": [0]}, "exclude_outbound_ports", 0, "is not within 1 to 65535"),
    ({"exclude_outbound_ports": [True]}, "exclude_outbound_ports", True, "is no port"),
    ({"exclude_outbound_ports": [80.0]}, "exclude_outbound_ports", 80.0, "is no port"),
    ({"exclude_outbound_ports": [10**30]}, "exclude_outbound_ports", 10**30, "is no port"),
    ({"exclude_outbound_ports": ["-5"]}, "exclude_outbound_ports", "-5", "is not within"),
    ({"exclude_outbound_ports": ["8100-8000"]}, "exclude_outbound_ports", "8100-8000", "write 8000-8100"),
    ({"exclude_outbound_ports": ["80-70000"]}, "exclude_outbound_ports", "80-70000", "is not within"),
    ({"exclude_outbound_ports": ["http"]}, "exclude_outbound_ports", "http", "is no port"),
    ({"exclude_outbound_ports": ["٨٠"]}, "exclude_outbound_ports", "٨٠", "is no port"),
    ({"exclude_outbound_ports": ["80 }"]}, "exclude_outbound_ports", "80 }", "is no port"),
    ({"exclude_outbound_ports": ["80\n"]}, "exclude_outbound_ports", "80\n", "is no port"),
    ({"exclude_outbound_ports": ["*", 80]}, "exclude_outbound_ports", "*", "can't stand beside others"),
    ({"exclude_outbound_ports": "*"}, "include_outbound_ports", ["0-65535"], "no port is left to capture"),
    ({"exclude_outbound_ports": ["1-65535"]}, "include_outbound_ports", ["0-65535"], "no port is left"),
    ({"include_inbound_ports": []}, "include_inbound_ports", [], "turn off inbound"),
    ({"include_inbound_ports": [80], "exclude_inbound_ports": ["70-90"]}, "include_inbound_ports", ["80"], "no port"),
    ({"exclude_inbound_networks": ["10.0.0.1/8"]}, "exclude_inbound_networks", "10.0.0.1/8", "write 10.0.0.0/8"),
    ({"exclude_inbound_networks": ["fd00::1/64"]}, "exclude_inbound_networks", "fd00::1/64", "write fd00::/64"),
    ({"exclude_inbound_networks": ["10.0.0.0/33"]}, "exclude_inbound_networks", "10.0.0.0/33", "is not an IPv4 or"),
    ({"exclude_inbound_networks": ["ten"]}, "exclude_inbound_networks", "ten", "is not an IPv4 or IPv6 network"),
    ({"exclude_inbound_networks": [10]}, "exclude_inbound_networks", 10, "is not an IPv4 or IPv6 network"),
    (
        {"exclude_inbound_networks": ["::ffff:10.0.0.0/104"]},
        *("exclude_inbound_networks", "::ffff:10.0.0.0/104", "is IPv4-mapped; write 10.0.0.0/8"),
    ),
    ({"exclude_inbound_networks": ["fe80::%1/64"]}, "exclude_inbound_networks", "fe80::%1/64", ""),
    ({"include_outbound_networks": ["*", "10.0.0.0/8"]}, "include_outbound_networks", "*", "can't stand beside"),
    ({"include_outbound_networks": []}, "include_outbound_networks", [], "turn off outbound"),
    (
        {"include_outbound_networks": ["10.0.0.0/8"], "exclude_outbound_networks": ["10.0.0.0/9", "10.128.0.0/9"]},
        *("include_outbound_networks", ["10.0.0.0/8"], "no network is left to capture"),
    ),
    (
        {"families": ["ipv4"], "include_outbound_networks": ["fd00::/8"]},
        *("include_outbound_networks", ["fd00::/8"], "no network is left to capture"),
    ),
    ({"families": []}, "families", [], "no family is left"),
    ({"families": ["ipv5"]}, "families", "ipv5", "wants one of ipv4, ipv6"),
    ({"families": [4]}, "families", 4, "wants one of ipv4, ipv6"),
    ({"established": "drop"}, "established", "drop", "wants one of keep, reset"),
    ({"kept_deadline": 0}, "kept_deadline", 0, "is not more than 0"),
    ({"kept_deadline": float("nan")}, "kept_deadline", float("nan"), "is not more than 0"),
    ({"kept_deadline": float("inf")}, "kept_deadline", float("inf"), "at most 31536000"),
    ({"kept_deadline": "1h"}, "kept_deadline", "1h", "wants a number of seconds"),
    ({"when_proxy_absent": True}, "when_proxy_absent", True, "wants one of wait, capture"),
    ({"uncapturable": ["reject"]}, "uncapturable", ["reject"], "wants one of reject, direct"),
    ({"route_table": 0}, "route_table", 0, "is not within"),
    ({"route_table": 2**32}, "route_table", 2**32, "is not within"),
    ({"rule_priority": 32766}, "rule_priority", 32766, "is not within 1 to 32765"),
    ({"sample": -1}, "sample", -1, "is not within 0 to 1000000000"),
    ({"sample": True}, "sample", True, "wants a whole number"),
    ({"sample": "1/1000"}, "sample", "1/1000", "wants a whole number"),
    ({"outbund_port": 15001}, "outbund_port", 15001, "did you mean 'outbound_port'?"),
    ({"exclude_networks": []}, "exclude_networks", [], "did you mean"),
    ({"excludeOutboundPorts": [80]}, "excludeOutboundPorts", [80], "did you mean 'exclude_outbound_ports'?"),
    ({"zzz": 1}, "zzz", 1, "there is no such setting"),
    ({"kept_mark": 1}, "kept_mark", 1, "there is no such setting"),
]


@pytest.mark.parametrize(("values", "setting", "value", "reason"), REFUSED, ids=lambda each: str(each)[:50])
def test_a_bad_setting_is_refused_by_name_and_value(
    values: dict[str, Any], setting: str, value: Any, reason: str
) -> None:
    with pytest.raises(CaptureError) as caught:
        Capture.parse(values)
    error = caught.value
    assert error.setting == setting
    assert repr(error.value) == repr(value)
    assert reason in error.reason
    assert error.reason
    said = str(error)
    assert said.startswith(f"{setting} = ")
    assert said.endswith(f": {error.reason}")
    assert "\n" not in said
    assert len(said) < 400


@pytest.mark.parametrize(
    ("values", "name", "value"),
    [
        ({"include_outbound_ports": "*"}, "include_outbound_ports", ALL_PORTS),
        ({"include_outbound_ports": ["*"]}, "include_outbound_ports", ALL_PORTS),
        ({"include_outbound_ports": ["1-65535"]}, "include_outbound_ports", ALL_PORTS),
        ({"exclude_outbound_ports": []}, "exclude_outbound_ports", ()),
        ({"exclude_outbound_ports": [82, "80-81", 80]}, "exclude_outbound_ports", (PortRange(80, 82),)),
        ({"exclude_outbound_ports": ["80"]}, "exclude_outbound_ports", (PortRange(80, 80),)),
        ({"include_inbound_networks": "*"}, "include_inbound_networks", ALL_NETWORKS),
        (
            {"exclude_inbound_networks": ["fd00::/8", "10.1.2.3", "10.0.0.0/8"]},
            *("exclude_inbound_networks", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
        ),
        ({"families": ["ipv6", "ipv4", "ipv6"]}, "families", (Family.IPV4, Family.IPV6)),
        ({"proxy_mark": 1337}, "proxy_mark", Mark(1337)),
        ({"proxy_mark": "0x539/0xfff"}, "proxy_mark", Mark(0x539, 0xFFF)),
        ({"probe_sources": []}, "probe_sources", ()),
        ({"exclude_interfaces": ["lo*", "br-*", "eth0.1"]}, "exclude_interfaces", ("br-*", "eth0.1", "lo*")),
        ({"kept_deadline": 30}, "kept_deadline", 30.0),
        ({}, "families", None),
    ],
)
def test_what_is_accepted_has_one_form(values: dict[str, Any], name: str, value: Any) -> None:
    assert getattr(Capture.parse(values), name) == value


def test_exclusion_within_inclusion_is_normal_use() -> None:
    Capture.parse({"include_outbound_networks": ["10.0.0.0/8"], "exclude_outbound_networks": ["10.1.0.0/16"]})


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ({}, {"outbound_port", "inbound_port", "dns_port"}),
        ({"ingress": True}, {"outbound_port", "dns_port"}),
        ({"inbound": False, "dns": False}, {"outbound_port"}),
        ({"outbound": False, "dns": False}, {"inbound_port"}),
        (
            {"outbound": False, "dns": False, "virtual_interfaces": ["br0"]},
            {"outbound_port", "inbound_port"},
        ),
    ],
)
def test_the_proxy_must_listen_where_something_is_sent(values: dict[str, Any], ports: set[str]) -> None:
    assert set(Capture.parse(values).proxy_ports) == ports


@pytest.mark.parametrize("mark", ["0x111/0xfff", "0x2/0x3", "0x80000000/0xc0000000", "0x3/0x3"])
def test_the_mark_of_kept_streams_is_another_in_the_same_bits(mark: str) -> None:
    capture = Capture.parse({"connection_mark": mark})
    assert capture.kept_mark.mask == capture.connection_mark.mask
    assert capture.kept_mark.value not in (0, capture.connection_mark.value)
