"""Notifications are decoded strictly, and whatever comes raises nothing but `KernelError`."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import KernelError
from agent.kernel.notifications import Change, Commit, Routed, of_routing, of_tables, port_of
from agent.kernel.tablequery import TableName

PORT = 4711


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, PORT) + body


# As Linux 6.18 sends them: a base chain that came, and the process that made it.
CHAIN = message(
    0xA03,
    bytes((1, 0, 0, 2))
    + attribute(1, b"theirs\0")
    + attribute(3, b"first\0")
    + attribute(4 | 0x8000, attribute(1, bytes(4)) + attribute(2, b"\xff\xff\xff\x9b"))
    + attribute(7, b"nat\0"),
)
COMMIT = message(
    0xA0F, bytes(4) + attribute(1, bytes((0, 0, 0, 2))) + attribute(2, b"\0\0\x12\x67") + attribute(3, b"nft\0")
)
RULE = message(
    33, bytes((2, 0, 0, 0, 100, 0, 0, 1, 0, 0, 0, 0)) + attribute(15, struct.pack("=I", 300)) + attribute(21, b"w")
)
ROUTE = message(25, bytes((10, 0, 0, 0, 100, 119, 0, 2, 0, 0, 0, 0)))
LINK = message(16, struct.pack("=BBHiII", 0, 0, 772, 1, 0, 0) + attribute(3, b"lo\0"))


def test_what_the_kernel_sends_is_read() -> None:
    change = Change(
        port=PORT, what="chain", added=True, table=TableName(family="inet", name="theirs"), name="first", hooked=True
    )
    assert of_tables(CHAIN + COMMIT) == (change, Commit(port=PORT, process=0x1267, name="nft"))
    assert of_routing(RULE + ROUTE + LINK) == (
        Routed(port=PORT, what="rule", added=False, family=2, table=300, protocol=119),
        Routed(port=PORT, what="route", added=False, family=10, table=100, protocol=119),
        Routed(port=PORT, what="link", added=True, family=0, index=1),
    )
    assert port_of(CHAIN) == PORT
    # Other kinds of message, and a kernel that tells no process, are nothing to report.
    assert of_tables(message(0xA11, bytes(4)) + message(0xA0F, bytes(4))) == ()
    assert of_routing(message(28, b"")) == ()


@pytest.mark.parametrize("whole", [CHAIN, COMMIT, RULE, ROUTE, LINK])
def test_nothing_that_is_cut_short_is_taken_for_whole(whole: bytes) -> None:
    for size in range(1, len(whole)):
        for cut in (whole[:size], struct.pack("=I", size) + whole[4:size]):  # the second says that it is so short
            for read in (of_tables, of_routing):
                try:
                    found = read(cut)
                except KernelError:
                    continue
                assert found == () or size >= 28, "only optional attributes may be missing"


@given(st.binary(max_size=200), st.sampled_from([CHAIN, COMMIT, RULE, ROUTE, LINK]), st.data())
def test_any_bytes_are_read_or_refused(noise: bytes, whole: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(whole)))
    for told in (noise, whole[:at] + noise + whole[at:], whole[:at] + noise + whole[at + len(noise) :], whole + noise):
        port_of(told)
        for read in (of_tables, of_routing):
            with contextlib.suppress(KernelError):
                read(told)
