"""The packets that `weir explain --packet` reads: what can be asked is read back the same, what can't is named."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.explain.asked import Asked, read
from rulesets.vocabulary import Address, ConnState, Protocol

_MARKS = st.integers(0, 2**32 - 1)
_OWNERS = st.none() | st.integers(0, 2**32 - 2)
_DEVICES = st.sampled_from(["", "eth0", "br-0.7", "a@b"])


@st.composite
def packets(draw: st.DrawFn) -> Asked:
    v4 = draw(st.booleans())
    numbers = st.integers(0, 2**32 - 1) if v4 else st.integers(0, 2**128 - 1)
    addresses: st.SearchStrategy[Address] = numbers.map(IPv4Address if v4 else IPv6Address)
    destination, source = draw(addresses), draw(st.none() | addresses)
    protocol = draw(st.sampled_from([Protocol.TCP, Protocol.UDP, Protocol.ICMP]))
    ported = protocol is not Protocol.ICMP
    if not ported and destination.version == 6:
        protocol = Protocol.ICMPV6
    inwards = draw(st.booleans())
    return Asked(
        inwards=inwards,
        protocol=protocol,
        destination=destination,
        destination_port=draw(st.integers(1, 65535)) if ported else 0,
        source=source,
        source_port=draw(st.integers(0, 65535)) if ported and source is not None else 0,
        state=draw(st.sampled_from(ConnState)),
        reply=draw(st.booleans()),
        mark=draw(_MARKS),
        connection_mark=draw(_MARKS),
        user=None if inwards else draw(_OWNERS),
        group=None if inwards else draw(_OWNERS),
        device=draw(_DEVICES),
    )


@given(packets())
def test_what_is_written_is_read_the_same(packet: Asked) -> None:
    assert read(str(packet)) == packet


_WORDS = [
    "out",
    "in",
    "tcp",
    "udp",
    "icmp",
    "to",
    "10.0.0.1:80",
    "[::1]:80",
    "::1",
    "[::1]",
    "1.2.3:4",
    "new",
    "mark=1",
    "uid=x",
    "dev=",
    "=",
    "reply",
]


def attempted(text: str) -> Asked | str:
    """Return the packet, or what was said of it."""
    try:
        return read(text)
    except ConfigError as error:
        return str(error)


@given(st.lists(st.sampled_from(_WORDS) | st.text(max_size=8), max_size=9).map(" ".join) | st.text(max_size=60))
def test_whatever_is_written_is_read_or_refused_with_the_text(text: str) -> None:
    found = attempted(text)
    if isinstance(found, Asked):
        assert read(str(found)) == found
    else:
        assert repr(text) in found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out tcp", "is too short"),
        ("up tcp 10.0.0.7:443", "'up': wants out (sent from the namespace) or in (arriving there)"),
        ("out sctp 10.0.0.7:443", "'sctp': wants tcp, udp or icmp"),
        ("out tcp 10.0.0.7", "'10.0.0.7': tcp wants a port, as in 10.0.0.7:443"),
        ("out tcp [fd00::7]", "'[fd00::7]': tcp wants a port, as in [fd00::7]:443"),
        ("out tcp fd00::7", "'fd00::7': is no destination"),
        ("out tcp 10.0.0.7:0", "'10.0.0.7:0': port 0 is not one of 1 to 65535"),
        ("out udp 10.0.0.7:65536", "'10.0.0.7:65536': port 65536 is not one of 1 to 65535"),
        ("out icmp 10.0.0.7:1", "'10.0.0.7:1': ICMP has no ports"),
        ("out tcp 10.0.0.300:1", "'10.0.0.300:1': Octet 300 (> 255) not permitted in '10.0.0.300'"),
        ("out tcp 10.0.0.1 to [::1]:1", "'[::1]:1': source and destination are of different families"),
        ("out tcp 10.0.0.1 to", "'to': no destination follows"),
        ("out tcp 10.0.0.7:1 mark=0x100000000", "'mark=0x100000000': wants a number up to 0xffffffff"),
        ("out tcp 10.0.0.7:1 mark=1 mark=2", "'mark=2': mark is given twice"),
        ("out tcp 10.0.0.7:1 new established", "'established': a state is given twice"),
        ("out tcp 10.0.0.7:1 colour=red", "'colour=red': is no option"),
        ("in tcp 10.0.0.7:1 uid=0", "'uid=': no socket here sends a packet that comes in"),
        ("out tcp 10.0.0.7:1 uid=4294967295", "'uid=4294967295': wants a user's number"),
    ],
)
def test_what_can_t_be_read_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert str(refused.value) == f"--packet {text!r}: {said}"
