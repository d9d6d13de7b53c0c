"""Annotations that nobody can mean, or that somebody means badly: refused by name, and nothing of them gets far."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.sources.kubernetes.annotations import READERS, Asked, asked
from rulesets import nft, pod
from rulesets.settings import CaptureError
from tests.annotation_names import BYPASS, DNS, VIRTUAL, T, refused

PORTS = [f"{T}{kind}{way}Ports" for kind in ("include", "exclude") for way in ("Inbound", "Outbound")]
RANGES = [each.replace("Ports", "IPRanges") for each in PORTS]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yes",
        "on",
        "tRUE",
        " true",
        "true\n",
        "enabled",
        "2",
        "\uff11",
        pytest.param("x" * 1_000_000, id="megabyte"),
    ],
)
@pytest.mark.parametrize("name", [BYPASS, DNS])
def test_a_switch_that_is_neither_is_refused(name: str, value: str) -> None:
    error = refused({name: value})
    assert (error.setting, error.value, error.reason) == (name, value, 'wants "true" or "false"')
    assert len(str(error)) < 250


# What Istio's agent pastes into `nft -f -` as it is (S2), and what its iptables would take for options.
@pytest.mark.parametrize(
    "value",
    [
        'eth0\ninclude "/etc/shadow"',
        "eth0; flush ruleset",
        'eth0" accept; add rule inet x y accept #',
        "eth0\n",
        "eth0\neth1",
        "@set",
        "eth0 accept",
        "*",
        "+",
        "é",
        "a" * 16,
        pytest.param("e" * 1_000_000, id="megabyte"),
        "eth0\x00",
        "../eth0",
        "{ eth0 }",
    ],
)
@pytest.mark.parametrize("name", [VIRTUAL, f"{T}excludeInterfaces"])
def test_what_is_no_interface_is_refused(name: str, value: str) -> None:
    if value == "eth0\n":  # a block scalar of YAML ends so, and blanks around a name don't count
        assert asked({name: value}) == asked({name: "eth0"})
        return
    error = refused({name: value})
    assert error.setting == name
    assert str(error).startswith(f"{name} = ")
    assert len(str(error)) < 300
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "value",
    [
        "80,",
        ",",
        "http",
        "80;443",
        "80 443",
        "80\n443",
        "65536",
        "-1",
        "+80",
        "8.0",
        "0x50",
        "1_000",
        "\u0668\u0660",
        "\uff18\uff10",
        "²",
        "*,80",
        "90-80",
        "80-",
        "80 accept",
        "99999999999999999999",
        pytest.param("1" * 1_000_000, id="megabyte"),
        pytest.param("80," * 500_000, id="many"),
        "{80}",
        "@s",
        "80#",
        "\x0080",
    ],
)
@pytest.mark.parametrize("name", PORTS)
def test_what_is_no_port_is_refused(name: str, value: str) -> None:
    error = refused({name: value})
    assert error.setting == name
    assert len(str(error)) < 300
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "value",
    [
        "10.0.0.0/33",
        "10.0.0/8",
        "10.0.0.0/255.0.0.0",
        "010.0.0.0/8",
        "10.0.0.0/8,",
        "10.0.0.0/8;1",
        "fe80::1%eth0/64",
        "*,10.0.0.0/8",
        "::ffff:10.0.0.0/104",
        "\u0661\u0660.0.0.0/8",
        "10.0.0.0/\u0668",
        "10.0.0.0/8\n11.0.0.0/8",
        "example.org",
        "0.0.0.0/0/0",
        "/8",
        "0x0a000000/8",
        pytest.param("1" * 1_000_000, id="megabyte"),
        "10.0.0.0/8 accept",
        "@all",
    ],
)
@pytest.mark.parametrize("name", RANGES)
def test_what_is_no_network_is_refused(name: str, value: str) -> None:
    error = refused({name: value})
    assert error.setting == name
    assert len(str(error)) < 300
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("excludeInboundPorts", "*", 'would leave nothing; write ambient.istio.io/bypass-inbound-capture: "true"'),
        (
            "excludeInboundPorts",
            "1-65535",
            'no port is left to capture; write ambient.istio.io/bypass-inbound-capture: "',
        ),
        ("excludeInboundIPRanges", "*", "would leave nothing; write ambient.istio.io/bypass-inbound-capture"),
        (
            "excludeOutboundIPRanges",
            "*",
            'would leave nothing; write traffic.sidecar.istio.io/includeOutboundIPRanges: ""',
        ),
        (
            "excludeOutboundIPRanges",
            "0.0.0.0/0,::/0",
            "no network is left to capture; write traffic.sidecar.istio.io/incl",
        ),
        ("excludeOutboundPorts", "*", "would leave nothing; write traffic.sidecar.istio.io/includeOutboundIPRanges"),
        ("includeOutboundIPRanges", "127.0.0.0/8", "is loopback, which is never captured"),
        ("includeOutboundIPRanges", "10.0.0.0/8,::1/128", "is loopback, which is never captured"),
    ],
)
def test_what_leaves_nothing_to_capture_is_refused_with_what_to_write(name: str, value: str, said: str) -> None:
    error = refused({f"{T}{name}": value})
    assert (error.setting, error.reason[: len(said)]) == (f"{T}{name}", said)


@settings(deadline=None, database=None)
@given(name=st.sampled_from(sorted(READERS)), value=st.text(max_size=40) | st.from_regex(r"[-*0-9a-f.:/, +\n]{0,30}"))
def test_any_text_is_read_into_sound_rules_or_refused_by_name(name: str, value: str) -> None:
    found: Asked | None
    blamed = ""
    try:
        found = asked({name: value})
    except CaptureError as error:
        found, blamed = None, error.setting
    if found is None:
        assert blamed == name
        return
    rules = pod.build(found.capture)
    assert nft.parse(nft.render_json(rules), pod.POD_TABLE) == rules
    assert re.fullmatch(r"[\x20-\x7e\n\t]*", nft.render(rules))
    assert json.loads(nft.render_json(rules))
