"""`weir verify --probe`: a real connection proves that a pod is captured, or shows that it isn't."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netns_tests.command import Command, Done
from netns_tests.daemon import listening
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.servers import EchoServer
from netns_tests.tap import Tap
from netns_tests.world import Host, World

EVERY = [(way, family) for way in ("outbound", "inbound") for family in ("ipv4", "ipv6")]


@pytest.fixture
def weir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    return Command(tmp_path / "run", environment={"XTABLES_LOCKFILE": str(tmp_path / "xtables.lock")})


@pytest.fixture
def proxy(pod: Host) -> Iterator[Proxy]:
    with Proxy(pod) as running:
        yield running


def proofs(done: Done) -> dict[tuple[str, str], Any]:
    return {(each["direction"], each["family"]): each for each in done.json["probes"]}


def probed(weir: Command, pod: Namespace, *more: str) -> tuple[int, dict[tuple[str, str], Any]]:
    done = weir.json("verify", "--probe", "--netns", pod.name, *more)
    assert done.err == ""
    return done.code, proofs(done)


def test_both_ways_and_families_are_proved_and_nobody_is_disturbed(
    world: World, pod: Host, proxy: Proxy, weir: Command
) -> None:
    assert weir("apply", "--netns", pod.name).code == 0
    with EchoServer(pod, 8080) as application, Tap(pod) as tap:
        code, found = probed(weir, pod)
        assert (code, list(found)) == (0, EVERY)
        assert {each["captured"] for each in found.values()} == {True}
        assert application.peers == []
        assert not tap.payload()
    # Of what was sent out the proxy may have heard before the reset, of the SYN that came in it never did.
    captured = {(each.direction, each.original) for each in proxy.captured}
    assert captured <= {("outbound", ("192.0.2.1", 443)), ("outbound", ("2001:db8::1", 443))}
    said = found["outbound", "ipv4"]["said"]
    assert said.startswith("192.0.2.1:443 was answered by ")
    assert said.endswith(" on 127.0.0.1:15001")
    assert "counter outbound-redirect rose by 1" in found["outbound", "ipv4"]["seen"]
    inwards = found["inbound", "ipv6"]
    assert (
        f"a SYN from fd00:1::1 to [{pod.v6}]:9, which came in by the link's other end, was sent to [{pod.v6}]:15006"
        in inwards["said"]
    )
    assert any(each.startswith("not proved: ") for each in inwards["seen"])


def test_what_goes_past_the_proxy_is_seen(pod: Host, proxy: Proxy, weir: Command) -> None:
    assert weir("apply", "--netns", pod.name).code == 0
    pod.nft("add table inet theirs; add chain inet theirs o { type route hook output priority -160; };")
    pod.nft("add rule inet theirs o ip daddr 192.0.2.1 meta mark set 0x539")
    pod.nft("add chain inet theirs p { type filter hook prerouting priority -310; };")
    pod.nft("add rule inet theirs p meta nfproto ipv6 tcp dport 9 drop")
    code, found = probed(weir, pod)
    assert code == 1
    assert {key: each["captured"] for key, each in found.items()} == {
        ("outbound", "ipv4"): False,
        ("outbound", "ipv6"): True,
        ("inbound", "ipv4"): True,
        ("inbound", "ipv6"): False,
    }
    assert "went past the proxy" in found["outbound", "ipv4"]["said"]
    assert "left no trace" in found["inbound", "ipv6"]["said"]


def test_a_port_where_nothing_listens_is_no_capture(pod: Host, weir: Command) -> None:
    settings = ("--set", "when_proxy_absent=capture", "--set", "dns=false")
    assert weir("apply", "--netns", pod.name, *settings).code == 0
    code, found = probed(weir, pod, *settings)
    assert code == 1
    assert {each["captured"] for each in found.values()} == {False}
    assert "was sent to the proxy's port: Connection refused" in found["outbound", "ipv4"]["said"]
    assert "was sent to port 15006, where nothing listens" in found["inbound", "ipv4"]["said"]


def test_a_family_without_a_route_is_said_not_failed(pod: Host, proxy: Proxy, weir: Command) -> None:
    assert weir("apply", "--netns", pod.name).code == 0
    pod.command("ip", "-6", "route", "del", "default")
    code, found = probed(weir, pod)
    assert code == 0
    unproved = found["outbound", "ipv6"]
    assert unproved["captured"] is None
    assert unproved["said"].startswith("it has no route to 2001:db8::1 (ENETUNREACH")
    shown = weir("verify", "--probe", "--netns", pod.name)
    assert "  ?   probe     outbound IPv6: not proved: it has no route to 2001:db8::1" in shown.out


def test_a_proxy_that_is_root_is_not_taken_for_the_probe(pod: Host, weir: Command) -> None:
    """The probe's socket is another user's then: as root it would go past the proxy, and prove nothing."""
    settings = ("--set", "proxy_user=0", "--set", "dns=false", "--set", "inbound=false")
    sockets = listening(pod, 15001, 15006, 15008)
    try:
        assert weir("apply", "--netns", pod.name, *settings).code == 0
        code, found = probed(weir, pod, *settings)
    finally:
        for each in sockets:
            each.close()
    assert code == 0
    assert {key: each["captured"] for key, each in found.items()} == {
        ("outbound", "ipv4"): True,
        ("outbound", "ipv6"): True,
    }


def test_without_the_privilege_of_packet_sockets_inwards_isn_t_proved(pod: Host, proxy: Proxy, weir: Command) -> None:
    """As in the agent's container, which has no CAP_NET_RAW."""
    assert weir("apply", "--netns", pod.name).code == 0
    less = Command(weir.directory, prefix=("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"))
    code, found = probed(less, pod)
    assert code == 0
    assert [each["captured"] for each in found.values()] == [True, True, None, None]
    assert "CAP_NET_RAW" in found["inbound", "ipv4"]["said"]


def test_a_namespace_without_a_link_can_t_be_reached(weir: Command) -> None:
    with Namespace.create("lonely") as alone, Proxy(alone):
        assert weir("apply", "--netns", alone.name).code == 0
        code, found = probed(weir, alone)
    assert code == 1
    assert {each["captured"] for each in found.values()} == {None}
    assert found["inbound", "ipv4"]["said"] == "it has no address that others reach"


def test_settings_that_leave_out_the_address_are_respected(pod: Host, proxy: Proxy, weir: Command) -> None:
    settings = ("--set", 'exclude_outbound_networks=["192.0.2.0/24"]')
    assert weir("apply", "--netns", pod.name, *settings).code == 0
    _, found = probed(weir, pod, *settings)
    assert found["outbound", "ipv4"]["captured"] is None
    assert found["outbound", "ipv4"]["said"] == "the settings leave 192.0.2.1 out, which is nobody's"
    assert found["outbound", "ipv6"]["captured"] is True
