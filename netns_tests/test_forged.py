"""What a pod tells its own namespace is not taken for the kernel's word: whoever has CAP_NET_ADMIN there may."""

import json
import socket
import struct
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.kernel.conntrack.events import BATCH, Receiver, event_socket
from agent.kernel.rawnetlink import NETLINK_NETFILTER
from agent.kernel.subscription import listening, received
from netns_tests.daemon import CAPTURE, PROXY, Daemon, targets
from netns_tests.daemon import listening as ports_of
from netns_tests.vandal import drifts
from netns_tests.world import Host, World

NFTABLES, NFTRACE = 7, 9  # nfnetlink's groups
_HEADER = struct.Struct("=IHHII")
_NEWGEN, _NEWCHAIN = 10 << 8 | 15, 10 << 8 | 3


def message(kind: int, *attributes: tuple[int, bytes]) -> bytes:
    """Return one message of nf_tables, as the kernel writes it."""
    body = struct.pack("!BBH", 1, 0, 0)
    for number, value in attributes:
        body += struct.pack("=HH", len(value) + 4, number) + value + bytes(-len(value) % 4)
    return _HEADER.pack(_HEADER.size + len(body), kind, 0, 0, 0) + body


def send(pod: Host, group: int, datagram: bytes, times: int = 1) -> None:
    """Send to a group of the pod's namespace, as a process in it."""

    def told() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sender:
            for _ in range(times):
                sender.sendto(datagram, (0, 1 << (group - 1)))

    pod.run(told)


def test_a_datagram_of_somebody_else_is_none(pod: Host) -> None:
    heard = pod.run(lambda: listening(NETLINK_NETFILTER, (NFTABLES,)))
    with heard:
        send(pod, NFTABLES, b"forged" * 10)
        assert received(heard) == b""
        pod.nft("add table inet real")
        told = received(heard)
        assert b"real\0" in told
    with pytest.raises(OSError, match="Bad file descriptor"):
        received(heard)


def test_events_of_somebody_else_are_none(pod: Host) -> None:
    receiver, events = Receiver(), pod.run(event_socket)
    with events:
        send(pod, 1, b"forged" * 20, BATCH)
        assert set(receiver.receive(events.fileno())) == {0}
        send(pod, 3, b"forged" * 20, 2)
        pod.command("conntrack", *"-I -p udp -s 10.9.9.9 -d 10.9.9.8 --sport 1 --dport 2 -t 60".split())
        sizes = receiver.receive(events.fileno())
        assert [size > 0 for size in sizes] == [False, False, True]


def test_a_pod_blames_nobody_else_and_keeps_nobody_busy(world: World, tmp_path: Path) -> None:
    pod = world.pods[0]
    changed = message(_NEWCHAIN, (1, b"weir-pod\0"), (3, b"x\0"))
    blamed = message(_NEWGEN, (1, b"\0\0\0\1"), (2, b"\0\0\0\1"), (3, b"kubelet\0"))
    with ExitStack() as stack:
        for each in ports_of(pod, *PROXY):
            stack.enter_context(each)
        daemon = stack.enter_context(Daemon(tmp_path, targets([pod], CAPTURE), "--no-own")).start()
        send(pod, NFTABLES, changed + blamed)
        pod.command("nft", "flush", "table", "inet", "weir-pod")
        send(pod, NFTABLES, changed + blamed)
        daemon.eventually(lambda: drifts(daemon), "the flush is told")
        assert [each["culprit"]["name"] for each in drifts(daemon)] == ["nft"]
        daemon.eventually(lambda: daemon.target("t0")["captured"], "it is captured again")
        send(pod, NFTABLES, changed * 100 + blamed, 2000)  # what there is no room for is an overrun
        assert daemon.get("/healthz")[0] == 200
        pod.command("nft", "delete", "table", "inet", "weir-pod")
        daemon.eventually(lambda: any(each["kind"] == "table-gone" for each in drifts(daemon)), "that is told as well")
        assert "kubelet" not in json.dumps(drifts(daemon)) + daemon.log
        daemon.eventually(lambda: daemon.target("t0")["captured"], "it is captured again")
