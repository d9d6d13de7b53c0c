"""Events as they are counted, from the kernel's bytes or from anybody's; and how targets ask for them."""

import json
import random
import socket
import struct
from ipaddress import ip_address

import pytest

from agent.daemon.flows import series
from agent.errors import ConfigError
from agent.flows.decoding import Counting, Ways, count
from agent.flows.totals import BYTES, Histogram, Totals
from agent.kernel.attributes import attribute, nested
from agent.kernel.conntrack import FlowTuple, codec, read_entry
from agent.sources import file as target_file
from agent.targets import Observation
from rulesets.settings import CaptureError

NEW, DESTROY = 1 << 8, 1 << 8 | 2
WAYS = Ways(mark=0x111, mask=0xFFF, outbound_port=15001, inbound_port=15006, hbone_port=15008)
DST_NAT = 1 << 5


def pair(kind: int, first: int, second: int) -> bytes:
    return nested(kind, attribute(1, first.to_bytes(8, "big")), attribute(2, second.to_bytes(8, "big")))


def message(
    kind: int,
    *,
    port: int = 80,
    answers_from: int = 80,
    mark: int = 0,
    status: int = 0,
    v6: bool = False,
    protocol: int = socket.IPPROTO_TCP,
    measured: bool = True,
    more: bytes = b"",
) -> bytes:
    """An event as the kernel writes it."""
    near, far = (ip_address(each) for each in (("fd00::1", "fd00::2") if v6 else ("10.0.0.1", "10.0.0.2")))
    original = FlowTuple(source=near, destination=far, protocol=protocol, source_port=4000, destination_port=port)
    reply = FlowTuple(source=far, destination=near, protocol=protocol, source_port=answers_from, destination_port=4000)
    body = (
        codec.header(codec.family(original))
        + codec.encode_tuple(codec.CTA_TUPLE_ORIG, original)
        + codec.encode_tuple(codec.CTA_TUPLE_REPLY, reply)
        + attribute(codec.CTA_ID, struct.pack("!I", 77))
        + attribute(codec.CTA_STATUS, struct.pack("!I", status))
    )
    if measured:
        body += pair(codec.CTA_COUNTERS_ORIG, 5, 332) + pair(codec.CTA_COUNTERS_REPLY, 3, 2**20)
        body += pair(20, 1_000_000_000, 3_500_000_000)
    body += attribute(codec.CTA_MARK, struct.pack("!I", mark)) + more
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def counted(*messages: bytes, timed: bool = True) -> Totals:
    counting = Counting(ways=WAYS, timed=timed)
    for each in messages:
        count(counting, bytearray(each), 0, len(each))
    return counting.totals


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize(
    ("path", "how"),
    [
        ("direct", {}),
        ("captured", {"answers_from": 15001, "status": DST_NAT}),
        ("direct", {"port": 15001, "answers_from": 15001}),
        ("captured", {"mark": 0x22111}),
        ("direct", {"mark": 0x110}),
        ("proxy", {"answers_from": 15006, "status": DST_NAT}),
        ("proxy", {"port": 15008, "answers_from": 15008}),
    ],
)
def test_a_connection_is_measured_by_its_way(path: str, how: dict[str, int], v6: bool) -> None:
    totals = counted(message(NEW, v6=v6), message(DESTROY, v6=v6, **how))  # type: ignore[arg-type]
    assert totals.events == {"new": 1, "destroy": 1}
    assert {name: sum(each.counts) for name, each in totals.seconds.items()} == {
        name: int(name == path) for name in ("captured", "direct", "proxy")
    }
    assert totals.seconds[path].total == 2.5
    assert (totals.bytes["original"].total, totals.bytes["reply"].total) == (332, 2**20)
    assert totals.packets == {"original": 5, "reply": 3}


def test_the_time_that_an_entry_is_kept_afterwards_is_none_of_the_connections() -> None:
    time_wait, closed = (nested(4, nested(1, attribute(1, bytes((state,))))) for state in (7, 8))
    left = attribute(codec.CTA_TIMEOUT, struct.pack("!I", 1))
    lasted = []
    for more in (time_wait, time_wait + left, closed, b""):
        counting = Counting(ways=WAYS, kept={7: 2})
        event = message(DESTROY, more=more)
        count(counting, bytearray(event), 0, len(event))
        lasted.append(counting.totals.seconds["direct"].total)
    assert lasted == [0.5, 2.5, 2.5, 2.5]


def test_what_the_kernel_has_not_measured_is_counted_as_such() -> None:
    assert counted(message(DESTROY, measured=False)).unmeasured == {"seconds": 1, "bytes": 1, "message": 0}
    told = counted(message(NEW), message(DESTROY, measured=False), timed=False)
    assert told.unmeasured["seconds"] == 0, "from event to event"
    assert sum(told.seconds["direct"].counts) == 1


def test_other_protocols_are_events_and_no_more() -> None:
    totals = counted(message(DESTROY, protocol=socket.IPPROTO_UDP))
    assert totals.events["destroy"] == 1
    assert not any(sum(each.counts) for each in totals.seconds.values())


def test_nobodys_bytes_stop_the_counting() -> None:
    chance = random.Random(7)
    good = message(DESTROY, v6=True) + message(NEW) + message(DESTROY)
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 4, 255, chance.randrange(256)))
        del data[chance.randint(1, len(data)) :]
        counted(bytes(data))
        counted(bytes(data), timed=False)
    endless = bytearray(message(DESTROY))
    place = endless.index(attribute(codec.CTA_MARK, bytes(4)))
    endless[place : place + 2] = b"\0\0"  # an attribute of no length
    assert counted(bytes(endless)).events["destroy"] == 1


def test_an_entry_is_read_as_the_whole_of_it_is() -> None:
    for each in (message(DESTROY, v6=True, mark=5, status=DST_NAT), message(DESTROY, answers_from=15001)):
        body = each[16:]
        flow, entry = codec.decode_flow(body, statement=""), read_entry(body, 0, len(body))
        assert flow is not None
        assert entry is not None
        assert (entry.source, entry.destination) == (flow.original.source.packed, flow.original.destination.packed)
        assert (entry.source_port, entry.destination_port) == (4000, 80)
        assert (entry.reply_port, entry.mark, entry.id) == (flow.reply.source_port, flow.mark, flow.id)
        assert (entry.bytes, entry.packets, entry.seconds) == ((332, 2**20), (5, 3), 2.5)


def test_totals_of_two_lives_add_up() -> None:
    one, other = counted(message(DESTROY)), counted(message(NEW), message(DESTROY, mark=0x111))
    one.add(json.loads(json.dumps(other.document())))
    assert one.events == {"new": 1, "destroy": 2}
    assert one.seconds["direct"].total + one.seconds["captured"].total == 5.0
    assert one.packets["original"] == 10


def test_a_value_on_a_bound_is_within_it() -> None:
    histogram = Histogram(BYTES)
    for value in (0.0, 256.0, 257.0, 1e12):
        histogram.observe(value)
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-1]) == (2, 1, 1)


def test_a_target_asks_for_its_connections() -> None:
    asked = target_file.target("a", "a", {"observe": ["connections", "connections"]})
    assert asked.observe == (Observation.CONNECTIONS,)
    assert target_file.changed(asked, {"dns": False}).observe == asked.observe
    assert target_file.target("a", "a", {}).observe == ()
    for wrong in ("connections", ["packets"], [1], 3):
        with pytest.raises(CaptureError, match="observe"):
            target_file.target("a", "a", {"observe": wrong})


def test_pods_have_series_where_it_is_said_how_many() -> None:
    assert series(kubernetes=False, environment={}) == 1000
    assert series(kubernetes=True, environment={}) == 0
    assert series(kubernetes=True, environment={"WEIR_POD_SERIES": " 20 "}) == 20
    for wrong in ("all", "-1", "1001", "1.5"):
        with pytest.raises(ConfigError, match="WEIR_POD_SERIES"):
            series(kubernetes=True, environment={"WEIR_POD_SERIES": wrong})
