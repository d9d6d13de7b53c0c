"""Conntrack against real traffic: what it lists, and what its changes do to the next packet."""

import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

import pytest

from agent.errors import PermissionMissing
from agent.kernel.conntrack import Conntrack, Flow, FlowTuple, Status
from netns_tests.clients import connect
from netns_tests.pairs import EACH_FAMILY, V4, V6, bound
from netns_tests.syscalls import drop_capabilities
from netns_tests.world import Host, eventually

T = TypeVar("T")
TCP, UDP, ICMP = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP
SECONDS = 5.0

ACTIVE = """
table inet active {
    chain output {
        type nat hook output priority -101
        ct mark 0xffffffff accept
    }
}
"""
# The rule is what counts: a nat chain without a rule that uses conntrack does not make the namespace track anything.


def conntrack(host: Host, question: Callable[[Conntrack], T]) -> T:
    def asked() -> T:
        with Conntrack() as table:
            return question(table)

    return host.run(asked)


def flows(host: Host, protocol: int | None = None) -> tuple[Flow, ...]:
    return conntrack(host, lambda table: table.flows(protocol))


def flow_tuple(source: tuple[str, int], destination: tuple[str, int], protocol: int = TCP) -> FlowTuple:
    return FlowTuple(
        source=ip_address(source[0]),
        destination=ip_address(destination[0]),
        protocol=protocol,
        source_port=source[1],
        destination_port=destination[1],
    )


@EACH_FAMILY
def test_a_redirected_connection_is_listed_with_its_translation_and_mark(
    pods: tuple[Host, ...], stack: ExitStack, family: int
) -> None:
    pod, peer = pods
    pod.sysctl("net/netfilter/nf_conntrack_acct", 1)
    pod.nft(
        "table inet capture {\n"
        "chain marks { type filter hook output priority -150; tcp dport 80 ct mark set 0x111; }\n"
        "chain output { type nat hook output priority -101; tcp dport 80 redirect to :15001; }\n"
        "}"
    )
    loopback = "127.0.0.1" if family == V4 else "::1"
    proxy = bound(stack, pod, family, 15001, address=loopback)
    # Nobody listens there: only the proxy can have taken it.
    near = stack.enter_context(connect(pod, (peer.address(family), 80)))
    far = stack.enter_context(proxy.accept()[0])
    far.settimeout(SECONDS)
    near.send(b"x")
    assert far.recv(1) == b"x"

    (flow,) = flows(pod)
    here = near.getsockname()[:2]
    assert flow.original == flow_tuple(here, (peer.address(family), 80))
    assert flow.reply == flow_tuple((loopback, 15001), here)
    assert flow.mark == 0x111
    assert (flow.zone, flow.reply_zone) == (0, 0)
    assert flow.tcp_state == "ESTABLISHED"
    assert flow.status & (Status.DST_NAT | Status.ASSURED) == Status.DST_NAT | Status.ASSURED
    assert 0 < flow.timeout <= int(pod.sysctl("net/netfilter/nf_conntrack_tcp_timeout_established"))
    assert flow.original_count is not None
    assert flow.original_count.packets == 3  # SYN, ACK, the byte
    assert flow.original_count.bytes > 3 * 40

    assert conntrack(pod, Conntrack.count) == 1
    assert conntrack(pod, lambda table: table.find(flow.original)) is not None
    assert flows(pod, UDP) == ()
    assert flows(peer) == ()


def test_counts_are_none_where_accounting_is_off(pods: tuple[Host, ...], stack: ExitStack) -> None:
    pod, peer = pods
    pod.sysctl("net/netfilter/nf_conntrack_acct", 0)
    pod.nft(ACTIVE)
    bound(stack, peer, V4, 80)
    stack.enter_context(connect(pod, (peer.v4, 80)))
    (flow,) = flows(pod)
    assert (flow.original_count, flow.reply_count) == (None, None)


def test_nothing_is_listed_where_conntrack_is_not_active(pods: tuple[Host, ...], stack: ExitStack) -> None:
    pod, peer = pods
    bound(stack, peer, V4, 80)
    stack.enter_context(connect(pod, (peer.v4, 80)))
    assert flows(pod) == ()
    assert conntrack(pod, Conntrack.count) == 0


@pytest.mark.parametrize(
    ("rule", "zones"),
    [
        ("ct zone set 7", (7, 7)),
        ("ct original zone set 7", (7, 0)),
        ("ct reply zone set 7", (0, 7)),
    ],
)
def test_an_entry_in_a_zone_is_listed_marked_and_deleted(
    pods: tuple[Host, ...], stack: ExitStack, rule: str, zones: tuple[int, int]
) -> None:
    pod, peer = pods
    pod.nft(
        "table inet zones {\n"
        f"chain output {{ type filter hook output priority -300; udp dport 53 {rule}; }}\n"
        f"chain input {{ type filter hook prerouting priority -300; udp sport 53 {rule}; }}\n"
        "}\n" + ACTIVE
    )
    near = bound(stack, pod, V4, 5000, kind=socket.SOCK_DGRAM)
    for port in (53, 54):
        near.sendto(b"x", (peer.v4, port))
    (flow,) = (each for each in flows(pod, UDP) if each.original.destination_port == 53)
    assert (flow.zone, flow.reply_zone) == zones
    assert conntrack(pod, lambda table: table.update_mark(flow, 0x5, 0xF))
    assert {each.original.destination_port: each.mark for each in flows(pod, UDP)} == {53: 0x5, 54: 0}
    assert conntrack(pod, lambda table: table.delete(flow))
    assert [each.original.destination_port for each in flows(pod, UDP)] == [54]


@EACH_FAMILY
def test_a_masked_mark_changes_no_other_bit(pods: tuple[Host, ...], stack: ExitStack, family: int) -> None:
    pod, peer = pods
    pod.nft(
        "table inet masked {\n"
        "chain output { type filter hook output priority 0; ct mark 0 ct mark set 0xff00ff; }\n"
        "chain drops { type filter hook output priority 1; ct mark 0xff0012 drop; }\n"
        "}"
    )
    near = bound(stack, pod, family, 5000, kind=socket.SOCK_DGRAM)
    bound(stack, peer, family, 9, kind=socket.SOCK_DGRAM)  # so that no ICMP error comes back
    near.connect((peer.address(family), 9))
    near.send(b"x")
    (flow,) = flows(pod, UDP)
    assert flow.mark == 0xFF00FF
    assert conntrack(pod, lambda table: table.update_mark(flow, 0x12, 0xFF))
    assert [each.mark for each in flows(pod, UDP)] == [0xFF0012]
    with pytest.raises(PermissionError):  # a datagram dropped on output: the rules see the new mark
        near.send(b"x")
    with pytest.raises(ValueError, match="outside of mask"):
        conntrack(pod, lambda table: table.update_mark(flow, 0x100, 0xFF))


@EACH_FAMILY
def test_deleting_its_entry_lets_a_dns_client_be_redirected(
    pods: tuple[Host, ...], stack: ExitStack, family: int
) -> None:
    pod, peer = pods
    loopback = "127.0.0.1" if family == V4 else "::1"
    resolver = bound(stack, peer, family, 53, kind=socket.SOCK_DGRAM)
    proxy = bound(stack, pod, family, 15053, address=loopback, kind=socket.SOCK_DGRAM)
    client = bound(stack, pod, family, 5000, kind=socket.SOCK_DGRAM)

    def taker() -> socket.socket:
        client.sendto(b"?", (peer.address(family), 53))
        for one in (resolver, proxy):
            one.setblocking(False)
        taken: list[socket.socket] = []

        def received() -> bool:
            for one in (resolver, proxy):
                try:
                    one.sendto(b"!", one.recvfrom(1)[1])
                except BlockingIOError:
                    continue
                taken.append(one)
            return bool(taken)

        eventually(received, "somebody takes the question")
        assert client.recv(1) == b"!"
        return taken[0]

    pod.nft(ACTIVE)
    assert taker() is resolver
    pod.nft("table inet dns { chain output { type nat hook output priority -102; udp dport 53 redirect to :15053; }\n}")
    assert taker() is resolver  # the old entry still decides: without this line the next proves nothing
    (flow,) = (each for each in flows(pod, UDP) if each.original.destination_port == 53)
    assert conntrack(pod, lambda table: table.delete(flow))
    assert taker() is proxy


def test_a_flow_that_has_gone_is_neither_deleted_nor_changed(pods: tuple[Host, ...], stack: ExitStack) -> None:
    pod, peer = pods
    pod.nft(ACTIVE)
    near = bound(stack, pod, V4, 5000, kind=socket.SOCK_DGRAM)
    near.sendto(b"x", (peer.v4, 9))
    (old,) = flows(pod, UDP)
    assert conntrack(pod, lambda table: table.delete(old))
    assert not conntrack(pod, lambda table: table.delete(old))
    assert not conntrack(pod, lambda table: table.update_mark(old, 1, 1))
    assert conntrack(pod, lambda table: table.find(old.original)) is None

    near.sendto(b"x", (peer.v4, 9))
    (new,) = flows(pod, UDP)
    # The kernel may give a new flow the memory, and with it the id, of the old one: so another id is made up here.
    assert not conntrack(pod, lambda table: table.delete(replace(new, id=new.id ^ 1)))
    assert [each.original for each in flows(pod, UDP)] == [new.original]
    assert conntrack(pod, lambda table: table.delete(replace(new, id=0)))
    assert flows(pod, UDP) == ()


@EACH_FAMILY
def test_an_entry_is_made_once_for_both_directions(pods: tuple[Host, ...], stack: ExitStack, family: int) -> None:
    pod, peer = pods
    pod.nft(ACTIVE)
    one = flow_tuple((pod.address(family), 40000), (peer.address(family), 80))
    assert conntrack(pod, lambda table: table.create_established(one, mark=0x77, timeout=600))
    assert not conntrack(pod, lambda table: table.create_established(one, mark=0x78, timeout=600))
    assert not conntrack(pod, lambda table: table.create_established(one.reversed(), mark=0x78, timeout=600))
    (flow,) = flows(pod)
    assert (flow.original, flow.reply) == (one, one.reversed())
    assert (flow.mark, flow.tcp_state) == (0x77, "ESTABLISHED")
    assert 590 <= flow.timeout <= 600
    assert flow.status == Status.CONFIRMED | Status.SEEN_REPLY | Status.ASSURED
    found = conntrack(pod, lambda table: table.find(one.reversed()))
    assert found is not None
    assert found.id == flow.id


def test_a_flow_that_cannot_be_named_is_refused_before_the_kernel_is_asked(
    pods: tuple[Host, ...], stack: ExitStack
) -> None:
    pod, peer = pods
    pod.nft(ACTIVE)
    echo = stack.enter_context(pod.socket(V4, socket.SOCK_RAW, ICMP))
    echo.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FE, 1, 0), (peer.v4, 0))
    (flow,) = flows(pod, ICMP)
    with pytest.raises(ValueError, match="ICMP"):
        conntrack(pod, lambda table: table.delete(flow))
    with pytest.raises(ValueError, match="only TCP"):
        conntrack(pod, lambda table: table.create_established(flow.original, mark=0, timeout=1))


def test_a_refusal_names_what_was_asked_and_what_the_kernel_said(pods: tuple[Host, ...], stack: ExitStack) -> None:
    pod, peer = pods
    one = flow_tuple((pod.v4, 40000), (peer.v4, 80))

    def powerless(table: Conntrack) -> bool:
        drop_capabilities()
        return table.create_established(one, mark=0x77, timeout=600)

    with pytest.raises(PermissionMissing) as refused:
        conntrack(pod, powerless)
    assert refused.value.statement == (
        "conntrack --create --family ipv4 --protonum 6 --src 10.0.1.2 --dst 10.0.2.2 --sport 40000 --dport 80"
        " --state ESTABLISHED --status ASSURED,SEEN_REPLY --timeout 600 --mark 0x77"
    )
    assert "EPERM" in refused.value.said


def test_many_flows_are_listed_whole(pods: tuple[Host, ...], stack: ExitStack) -> None:
    pod, peer = pods
    pod.nft(ACTIVE)
    expected = {
        flow_tuple((pod.address(family), port), (peer.address(family), 80))
        for family in (V4, V6)
        for port in range(20000, 22000)
    }

    def make(table: Conntrack) -> tuple[Flow, ...]:
        assert all(table.create_established(each, mark=1, timeout=600) for each in expected)
        return table.flows()

    listed = conntrack(pod, make)
    assert len(listed) == len(expected)
    assert {each.original for each in listed} == expected
