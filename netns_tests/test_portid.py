"""Whose a netlink socket is: found out once for each socket, however often it is asked."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.doctor.ports import Holders
from agent.kernel import portid
from agent.kernel.rawnetlink import NETLINK_NETFILTER, RawNetlink

PR_SET_NAME = 15


def opened() -> RawNetlink:
    socket = RawNetlink(NETLINK_NETFILTER, feature="nf_tables", option="CONFIG_NF_TABLES")
    socket.ask(0x0A00 | 16, bytes(4), statement="generation")  # gives it its port
    return socket


def test_all_processes_are_looked_through_once_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []

    def counting(look: Callable[..., list[str]]) -> Callable[..., list[str]]:
        def listdir(where: str | os.PathLike[str]) -> list[str]:
            looks.append(where)
            return look(where)

        return listdir

    monkeypatch.setattr("agent.kernel.portid.os.listdir", counting(os.listdir))
    with opened() as first, opened() as second:
        said = portid.owner(first.port)
        assert f"process {os.getpid()} (" in said
        assert said.endswith(f", netlink port {first.port}")
        assert looks.count("/proc") == 1
        for _ in range(10):
            assert portid.owner(first.port) == said
        assert looks.count("/proc") == 1
        assert f"netlink port {second.port}" in portid.owner(second.port)
        assert looks.count("/proc") == 2, "another socket is another question"


def test_a_socket_is_among_those_of_its_process() -> None:
    with opened() as socket:
        inode = portid.inode_of(socket.port)
        assert inode in portid.sockets_of(os.getpid())
        assert inode not in portid.sockets_of(1)
    assert portid.inode_of(socket_port_of_nobody()) == 0
    assert portid.sockets_of(0) == frozenset()


def test_a_name_that_a_process_gave_itself_is_escaped() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    before = Path("/proc/self/comm").read_bytes().removesuffix(b"\n")
    hostile = b"a\x1b[2J\nx\xff"
    try:
        assert libc.prctl(PR_SET_NAME, hostile, 0, 0, 0) == 0
        with opened() as socket:
            said = portid.owner(socket.port).removesuffix(f", netlink port {socket.port}")
            inode = portid.inode_of(socket.port)
            named = Holders().of([inode])[inode]
    finally:
        libc.prctl(PR_SET_NAME, before, 0, 0, 0)
    escaped = rf"process {os.getpid()} (a\x1b[2J\nx\xff)"
    assert said == escaped
    assert [str(each) for each in named] == [escaped]


def socket_port_of_nobody() -> int:
    with opened() as socket:
        return socket.port
