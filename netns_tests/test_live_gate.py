"""Traffic is only redirected where the proxy answers; interfaces that stay out, and guests behind a pod."""

import socket
from contextlib import ExitStack

import pytest

from agent.targets import State
from netns_tests.enrolling import APP, FAMILIES, Weir, alive, every_way, kernel_state, ways
from netns_tests.proxy import Proxy
from netns_tests.traffic import EchoServer, UdpEchoServer, exchange, udp_ask
from netns_tests.world import Host, Namespace, World

V4, V6 = socket.AF_INET, socket.AF_INET6
CAPTURED, DIRECT, REFUSED = ["captured"] * 4, ["direct"] * 4, ["refused"] * 4
PORTS = {15001: "outbound_port", 15006: "inbound_port", 15053: "dns_port"}


def listen(stack: ExitStack, pod: Host, family: int, address: str, port: int, *, udp: bool = False) -> None:
    sock = stack.enter_context(pod.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM))
    if family == V6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    if not udp:
        sock.listen()


def proxy_ports(stack: ExitStack, pod: Host, family: int) -> None:
    any_address, loopback = ("0.0.0.0", "127.0.0.1") if family == V4 else ("::", "::1")
    for port in (15001, 15006):
        listen(stack, pod, family, any_address, port)
    for udp in (True, False):
        listen(stack, pod, family, loopback, 15053, udp=udp)


def nothing_was_written(weir: Weir, before: str) -> None:
    assert kernel_state(weir.pod) == before
    assert weir.records.read(weir.handle.netns.identity, weir.handle.cookie) is None


def test_nothing_is_written_until_the_proxy_answers(world: World, pod: Host, weir: Weir) -> None:
    before = kernel_state(pod)
    outcome = weir.capture()
    assert outcome.state is State.WAITING
    tcp = "tcp port 15001 (outbound_port), tcp port 15006 (inbound_port)"
    assert outcome.reason == f"nothing listens on {tcp}, tcp and udp port 15053 (dns_port)"
    assert "when_proxy_absent" in outcome.hint
    assert outcome.plan
    assert not outcome.captured
    nothing_was_written(weir, before)
    assert ways(world, pod) == DIRECT
    outbound_only = weir.capture(inbound=False, dns=False)
    assert outbound_only.reason == "nothing listens on tcp port 15001 (outbound_port)"
    with Proxy(pod):
        assert weir.capture().state is State.APPLIED
        assert ways(world, pod) == CAPTURED


def test_a_proxy_of_one_family_is_not_enough(world: World, pod: Host, weir: Weir) -> None:
    before = kernel_state(pod)
    for family, other, name in ((V4, "IPv6", "ipv4"), (V6, "IPv4", "ipv6")):
        with ExitStack() as stack:
            proxy_ports(stack, pod, family)
            outcome = weir.capture()
            assert outcome.state is State.WAITING
            tcp = f"tcp port 15001 (outbound_port) over {other}, tcp port 15006 (inbound_port) over {other}"
            assert outcome.reason == f"nothing listens on {tcp}, tcp and udp port 15053 (dns_port) over {other}"
            nothing_was_written(weir, before)
            assert weir.capture(families=[name]).state is State.DEGRADED
            weir.remove()
            assert kernel_state(pod) == before


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.1.2"])
def test_listeners_count_only_where_connections_arrive(pod: Host, weir: Weir, address: str) -> None:
    # Outbound connections arrive at loopback, inbound ones at the address that was asked for.
    with ExitStack() as stack:
        for port in (15001, 15006):
            listen(stack, pod, V4, address, port)
        outcome = weir.capture(families=["ipv4"], dns=False)
        missing = 15006 if address == "127.0.0.1" else 15001
        assert outcome.state is State.WAITING
        assert outcome.reason == f"nothing listens on tcp port {missing} ({PORTS[missing]}) over IPv4"


def test_a_listener_that_is_bound_to_an_interface_hears_nothing_of_loopback(pod: Host, weir: Weir) -> None:
    with ExitStack() as stack:
        sock = stack.enter_context(pod.socket(V4))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0\0")
        sock.bind(("", 15001))
        sock.listen()
        outcome = weir.capture(families=["ipv4"], dns=False, inbound=False)
        assert outcome.state is State.WAITING


def test_capture_does_not_wait_if_that_is_wanted(world: World, pod: Host, weir: Weir) -> None:
    outcome = weir.capture(when_proxy_absent="capture")
    assert outcome.state is State.DEGRADED
    assert "nothing listens on tcp port 15001 (outbound_port)" in outcome.reason
    assert ways(world, pod) == REFUSED
    with Proxy(pod):
        assert weir.capture(when_proxy_absent="capture").state is State.UNCHANGED
        assert ways(world, pod) == CAPTURED


def test_a_proxy_that_dies_later_leaves_the_rules(world: World, pod: Host, weir: Weir) -> None:
    with ExitStack() as stack:
        with Proxy(pod):
            old = every_way(stack, world, pod)
            weir.capture()
            applied = kernel_state(pod)
        outcome = weir.capture()
        assert outcome.state is State.DEGRADED
        assert "nothing listens on tcp port 15001 (outbound_port)" in outcome.reason
        assert kernel_state(pod) == applied
        assert ways(world, pod) == REFUSED
        assert alive(old) == ["alive"] * 4
        changed = weir.capture(exclude_outbound_ports=[9])  # a changed wish doesn't wait either: it is captured already
        assert (changed.state, bool(changed.plan)) == (State.DEGRADED, True)
        with Proxy(pod):
            assert weir.capture(exclude_outbound_ports=[9]).state is State.UNCHANGED
            assert ways(world, pod) == CAPTURED


class Guest:
    """A namespace behind a pod, as a virtual machine's: the pod forwards for it."""

    def __init__(self, stack: ExitStack, world: World, pod: Host) -> None:
        self.host = stack.enter_context(Host.create("guest"))
        self.host.v4, self.host.v6 = "10.77.0.2", "fd77::2"
        pod.sysctl("net/ipv4/ip_forward", 1)
        pod.sysctl("net/ipv6/conf/all/forwarding", 1)
        pod.ip(
            f"link add guest0 type veth peer name eth0 netns {self.host.name}",
            "link set guest0 up",
            "addr add 10.77.0.1/24 dev guest0",
            "addr add fd77::1/64 dev guest0 nodad",
            # Forwarding makes a host a router, which takes no default route from elsewhere: this one is our own.
            "route replace ::/0 via fd00:1::1",
        )
        self.host.ip(
            "link set eth0 up",
            "addr add 10.77.0.2/24 dev eth0",
            "addr add fd77::2/64 dev eth0 nodad",
            "route add default via 10.77.0.1",
            "route add ::/0 via fd77::1",
        )
        world.node.ip("route add 10.77.0.0/24 via 10.0.1.2", "route add fd77::/64 via fd00:1::2")

    def address(self, family: int) -> str:
        return self.host.address(family)


def direct(client: Namespace, address: str, port: int) -> bool:
    return exchange(client, (address, port)).direct


def test_a_guests_connections_go_to_the_proxy_and_what_is_forwarded_otherwise_does_not(
    world: World, pod: Host, weir: Weir
) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(pod))
        guest = Guest(stack, world, pod)
        outside = stack.enter_context(EchoServer(world.outside))
        inner = stack.enter_context(EchoServer(guest.host, APP))
        datagrams = stack.enter_context(UdpEchoServer(world.outside))
        assert weir.capture().state is State.APPLIED
        for family in FAMILIES:
            assert direct(guest.host, world.outside.address(family), outside.port)
            assert direct(world.outside, guest.address(family), inner.port)
        assert weir.capture(virtual_interfaces=["guest*"]).state is State.APPLIED
        for family in FAMILIES:
            target = (world.outside.address(family), outside.port)
            assert not direct(guest.host, *target)
            assert proxy.captured.find("outbound", original=target)
            assert udp_ask(guest.host, (world.outside.address(family), datagrams.port), b"datagram") == b"datagram"
            # Inwards it is still only forwarded, and so it is the guest's own matter.
            assert direct(world.outside, guest.address(family), inner.port)
            assert not direct(pod, guest.address(family), inner.port)
        assert ways(world, pod) == CAPTURED


def test_an_excluded_interface_stays_out_both_ways(world: World, pod: Host, weir: Weir) -> None:
    with ExitStack() as stack:
        stack.enter_context(Proxy(pod))
        guest = Guest(stack, world, pod)
        app = stack.enter_context(EchoServer(pod, 8081))
        inner = stack.enter_context(EchoServer(guest.host, APP))
        weir.capture()
        for family in FAMILIES:
            assert not direct(guest.host, pod.address(family), app.port)
            assert not direct(pod, guest.address(family), inner.port)
        assert weir.capture(exclude_interfaces=["guest0"]).state is State.APPLIED
        for family in FAMILIES:
            assert direct(guest.host, pod.address(family), app.port)
            assert direct(pod, guest.address(family), inner.port)
        assert ways(world, pod) == CAPTURED
