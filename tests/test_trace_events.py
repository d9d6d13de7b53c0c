"""Messages about traced packets: read as the kernel sends them, and whatever else comes is one clear error."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.kernel.attributes import attribute
from agent.kernel.tablequery import TableName
from agent.kernel.tracing.events import Code, Event, Type, Unreadable, decode
from agent.kernel.tracing.rules import KnownRule, Rules
from agent.trace.counting import rules_met
from agent.trace.following import Fate, Follower
from agent.trace.headers import ends_of

# As Linux 6.18 sent it: the redirect of a connection to 10.1.2.3:80, the third rule of chain n.
NETWORK = bytes.fromhex("4500003c792b40004006a27b0a0909090a010203")
TRANSPORT = bytes.fromhex("85c60050cf75891800000000a002ffd71f440000")
TABLE = TableName(family="inet", name="w")


def message(kind: int = 0xA11, family: int = 1, **changed: bytes | None) -> bytes:
    parts: dict[str, tuple[int, bytes | None]] = {
        "nfproto": (15, bytes((0, 0, 0, 2))),
        "type": (4, bytes((0, 0, 0, 3))),
        "id": (6, bytes.fromhex("8223ba28")),
        "chain": (2, b"n\0"),
        "table": (1, b"w\0"),
        "handle": (3, bytes((0, 0, 0, 0, 0, 0, 0, 6))),
        "verdict": (5, attribute(1, bytes((0, 0, 0, 1)))),
        "oif": (12, bytes((0, 0, 0, 1))),
        "network": (8, NETWORK),
        "transport": (9, TRANSPORT),
    }
    for name, value in changed.items():
        parts[name] = parts[name][0], value
    body = bytes((family, 0, 0, 0)) + b"".join(
        attribute(kind, value) for kind, value in parts.values() if value is not None
    )
    return struct.pack("=IHHII", len(body) + 16, kind, 0, 0, 0) + body


def test_a_rule_that_was_met_is_read_whole() -> None:
    (event,) = decode(message())
    assert (event.family, event.table, event.chain, event.handle) == ("inet", "w", "n", 6)
    assert (event.type, event.verdict, event.packet, event.out_interface) == (Type.RULE, Code.ACCEPT, 0x8223BA28, 1)
    assert str(ends_of(event.network, event.transport)) == "tcp 10.9.9.9:34246 -> 10.1.2.3:80"


def test_several_messages_and_those_of_other_kinds() -> None:
    assert len(decode(message() + message(kind=0xA00) + message(handle=None))) == 2


@pytest.mark.parametrize(
    "bad",
    [
        message(type=None),
        message(type=bytes((0, 0, 0, 9))),
        message(id=b"\0"),
        message(handle=b"\0" * 4),
        message(verdict=None),
        message()[:-4],
        struct.pack("=IHHII", 7, 0xA11, 0, 0, 0),
        struct.pack("=IHHII", 17, 0xA11, 0, 0, 0) + b"\1",
    ],
)
def test_what_no_kernel_sends_is_refused(bad: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(bad)


@given(st.binary(max_size=300), st.integers(0, 200), st.integers(0, 255))
def test_nothing_else_is_ever_raised(noise: bytes, at: int, value: int) -> None:
    whole = bytearray(message())
    whole[at % len(whole)] = value
    for each in (
        noise,
        bytes(whole),
        message()[:20] + noise,
        message(network=noise, transport=noise[::-1], chain=noise),
    ):
        with contextlib.suppress(Unreadable):
            for event in decode(each):
                str(ends_of(event.network, event.transport))
                list(Follower(begins=lambda _: True).follow((event, event), 0.0))


def met(chain: str, handle: int | None, verdict: int = Code.CONTINUE, *, policy: bool = False) -> Event:
    return Event(
        family="inet",
        table="w",
        chain=chain,
        type=Type.POLICY if policy else Type.RULE,
        packet=1,
        handle=handle,
        verdict=verdict,
        target="",
        network=b"",
        transport=b"",
        mark=0,
        in_interface=0,
        out_interface=0,
    )


LISTED = Rules(
    chains={
        (TABLE, chain): tuple(KnownRule(handle=handle, comment="") for handle in handles)
        for chain, handles in {"base": (1, 2, 3, 4, 5), "sub": (11, 12, 13), "late": (21, 22)}.items()
    }
)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        # Chain base: the rule that traces is its first; nothing else matches.
        ([met("base", None), met("base", None, Code.ACCEPT, policy=True)], 4),
        ([met("base", 4, Code.ACCEPT)], 3),
        # Rule 3 jumps; two of three rules there until one returns; rule 4 then accepts.
        ([met("base", 3, Code.JUMP), met("sub", 12, Code.RETURN), met("base", 4, Code.ACCEPT)], 2 + 2 + 1),
        # A jump whose chain ends by itself, and the rest of the chain that jumped.
        (
            [met("base", 3, Code.JUMP), met("sub", None), met("base", None), met("base", None, 1, policy=True)],
            2 + 3 + 2,
        ),
        # What a goto leads to returns to no rule behind it.
        ([met("base", 2, Code.GOTO), met("sub", None), met("base", None, Code.ACCEPT, policy=True)], 1 + 3),
        # Two chains, one after the other, and one that drops.
        ([met("base", 2, Code.ACCEPT), met("late", 22, Code.DROP)], 1 + 2),
    ],
)
def test_rules_that_are_not_told_of_are_counted(events: list[Event], expected: int) -> None:
    follower = Follower(begins=lambda event: event.handle == 1)
    packets = [*follower.follow((met("base", 1), *events), 0.0), *follower.rest()]
    assert [rules_met(each, LISTED) for each in packets] == [expected]


def test_a_number_that_comes_again_is_another_packet() -> None:
    follower = Follower(begins=lambda event: event.handle == 1)
    one = (met("base", 1), met("base", 2, Code.ACCEPT))
    first = [*follower.follow((*one, *one), 0.0)]
    assert [len(each.steps) for each in (*first, *follower.rest())] == [1, 1]


def test_what_was_dropped_or_taken_or_is_not_seen_again() -> None:
    follower = Follower(begins=lambda event: event.handle == 1)
    for verdict, fate in ((Code.DROP, Fate.DROPPED), (3 | 5 << 16, Fate.TAKEN), (Code.STOLEN, Fate.TAKEN)):
        (packet,) = follower.follow((met("base", 1), met("base", 2, verdict)), 0.0)
        assert packet.fate is fate
    assert not list(follower.follow((met("base", 1), met("base", 2, Code.ACCEPT)), 10.0))
    (packet,) = follower.follow((), 12.0)
    assert packet.fate is Fate.UNSEEN
