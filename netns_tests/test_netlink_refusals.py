"""A batch that isn't carried out leaves everything as it was and says which rule it was; who owns a table keeps it."""

import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from agent.errors import AnswerLost, GenerationMoved, KernelError, TableHeld
from agent.kernel import batches
from agent.kernel.tablequery import table_state
from netns_tests.kernel_tables import GETTABLE, GOLDENS, POD, Place, counts, opened
from netns_tests.namespace import Namespace
from rulesets import nft
from rulesets.diff import Plan, diff
from rulesets.model import Rule
from rulesets.netlink import Batch, Message, Verb, encode

OWNED = ("owner", "persist")


@pytest.fixture(scope="module")
def place(root: None) -> Iterator[Place]:
    with Namespace.create("refused") as namespace, Place.open(namespace) as made:
        yield made


@pytest.fixture
def encoded(place: Place) -> Place:
    place.flush()
    return place


def flags_of(place: Place) -> tuple[str, ...]:
    state = table_state(place.netlink, POD.table)
    assert state is not None
    return state.flags


def test_a_table_is_owned_and_outlives_its_owner_and_is_adopted_with_the_next_change(encoded: Place) -> None:
    owner = opened(encoded.namespace)
    batches.send(owner, encode(Plan(actual=None, desired=POD), flags=OWNED))
    assert flags_of(encoded) == OWNED
    assert encoded.read(POD.table) == POD
    other = encode(Plan(actual=POD, desired=GOLDENS["dns-off"]), flags=OWNED, found=OWNED)
    with pytest.raises(TableHeld, match=r"add|flush") as held:
        batches.send(encoded.netlink, other)
    assert "inet weir-pod" in held.value.statement
    encoded.flush()
    assert encoded.read(POD.table) == POD  # nobody else's flush reaches it
    batches.send(owner, other)  # its owner changes it in place
    assert encoded.read(POD.table) == GOLDENS["dns-off"]
    owner.close()
    assert flags_of(encoded) == ("persist",)
    adopting = encode(Plan(actual=GOLDENS["dns-off"], desired=POD), flags=OWNED, found=("persist",))
    assert not any(each.verb is Verb.DELETE and each.thing is None for each in adopting.messages)
    with opened(encoded.namespace) as adopter:
        batches.send(adopter, adopting)
        assert flags_of(encoded) == OWNED
        assert encoded.read(POD.table) == POD
        batches.send(adopter, encode(Plan(actual=POD, desired=None), flags=OWNED, found=OWNED))
    assert table_state(encoded.netlink, POD.table) is None


def test_an_equal_orphan_is_adopted_without_touching_its_rules(encoded: Place) -> None:
    with opened(encoded.namespace) as owner:
        batches.send(owner, encode(Plan(actual=None, desired=POD), flags=OWNED))
    before = encoded.dump(POD.table)
    with opened(encoded.namespace) as adopter:
        batch = encode(Plan(actual=POD, desired=POD), flags=OWNED, found=("persist",))
        assert len(batch.messages) == 1
        batches.send(adopter, batch)
        assert flags_of(encoded) == OWNED
        batches.send(adopter, encode(Plan(actual=POD, desired=None)))
    assert before["rules"]


@pytest.mark.parametrize("found", [(), ("owner",), OWNED, ("persist",)])
@pytest.mark.parametrize("flags", [(), ("owner",), OWNED])
def test_any_flags_become_any_others_and_counters_go_on(
    encoded: Place, found: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    counted = replace(POD, counters=tuple(replace(each, packets=3, bytes=5) for each in POD.counters))
    first = opened(encoded.namespace)
    batches.send(first, encode(Plan(actual=None, desired=counted), flags=OWNED if found == ("persist",) else found))
    if found == ("persist",):
        first.close()
        first = opened(encoded.namespace)
    assert flags_of(encoded) == found
    batches.send(first, encode(diff(encoded.read(POD.table), POD), flags=flags, found=found))
    assert flags_of(encoded) == flags
    read = encoded.read(POD.table)
    assert read == POD
    assert set(counts(read).values()) == {(3, 5)}
    batches.send(first, encode(Plan(actual=POD, desired=None)))
    first.close()


# Refusals


def test_the_end_of_a_batch_is_acknowledged_or_the_last_message_before_it(encoded: Place) -> None:
    generation = encoded.generation()
    newer = batches.acknowledges_end(encoded.netlink)
    assert encoded.generation() == generation
    encoded.make(POD, end_acknowledged=newer)
    encoded.flush()
    encoded.make(POD, end_acknowledged=False)  # what is right for old kernels is right for new ones
    assert encoded.read(POD.table) == POD


def test_a_refused_rule_in_the_middle_is_named_and_nothing_is_applied(encoded: Place) -> None:
    encoded.make(GOLDENS["dns-off"])
    before, generation = encoded.text(), encoded.generation()
    wanted = GOLDENS["exclusions"]
    batch = encode(diff(GOLDENS["dns-off"], wanted))
    rules = [each for each in batch.messages if each.verb is Verb.ADD and each.thing in tuple(wanted.rules())]
    for chosen in (rules[0], rules[len(rules) // 2], rules[-1]):
        with pytest.raises(KernelError) as refused:
            batches.send(encoded.netlink, with_wrong_counter(batch, chosen))
        assert refused.value.statement == chosen.statement
        assert refused.value.said.startswith("ENOENT")
        assert (encoded.text(), encoded.generation()) == (before, generation)
    batches.send(encoded.netlink, batch)  # the socket goes on working
    assert encoded.read(wanted.table) == wanted


def with_wrong_counter(batch: Batch, chosen: Message) -> Batch:
    """The batch with one rule that counts in a counter that isn't there."""
    bodies = list(whole_messages(batch.data))
    sequence = batch.messages.index(chosen) + 1
    assert isinstance(chosen.thing, Rule)
    name = chosen.thing.slug.encode()
    at = bodies[sequence].index(b"objref")
    spoiled = bodies[sequence][:at] + bodies[sequence][at:].replace(name, b"X" + name[1:], 1)
    assert spoiled != bodies[sequence]
    bodies[sequence] = spoiled
    return replace(batch, data=b"".join(bodies))


def whole_messages(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("=I", data, at)
        yield data[at : at + length]
        at += length


def test_a_chain_that_is_not_there_is_named(encoded: Place) -> None:
    before = GOLDENS["draining"]
    encoded.make(before)
    shown = encoded.text()
    (missing,) = (each for each in POD.chains if each.name == "nat-pre")
    pretended = replace(before, chains=(*before.chains, replace(missing, rules=())))
    with pytest.raises(KernelError) as refused:
        encoded.send(diff(pretended, POD))
    assert refused.value.said.startswith("ENOENT")
    assert refused.value.statement == f"add rule inet weir-pod nat-pre {nft.render_rule(missing.rules[0])}"
    assert encoded.text() == shown


def test_a_set_that_is_in_use_or_overlaps_is_named(encoded: Place) -> None:
    encoded.make(GOLDENS["exclusions"])
    # A set that holds something the plan doesn't know of: what is added overlaps it.
    encoded.nft.load("flush set inet weir-pod exclude-outbound-networks-v4")
    encoded.nft.load("add element inet weir-pod exclude-outbound-networks-v4 { 0.0.0.0/0 }")
    shown = encoded.text()
    (the_set,) = (each for each in GOLDENS["exclusions"].sets if each.name == "exclude-outbound-networks-v4")
    pretended = replace(
        GOLDENS["exclusions"], sets=tuple(each for each in GOLDENS["exclusions"].sets if each != the_set), chains=()
    )
    with pytest.raises(KernelError) as refused:
        encoded.send(diff(pretended, GOLDENS["exclusions"]))
    assert refused.value.said.startswith("EEXIST")
    assert refused.value.statement.startswith("add element inet weir-pod exclude-outbound-networks-v4 { ")
    assert encoded.text() == shown


def test_a_batch_for_another_generation_is_refused(encoded: Place) -> None:
    encoded.make(POD)
    generation = encoded.generation()
    batch = encode(diff(POD, GOLDENS["dns-off"]))
    batches.send(encoded.netlink, batch, generation=generation)
    assert encoded.read(POD.table) == GOLDENS["dns-off"]
    with pytest.raises(GenerationMoved, match="ERESTART"):
        batches.send(encoded.netlink, encode(diff(GOLDENS["dns-off"], POD)), generation=generation)
    assert encoded.read(POD.table) == GOLDENS["dns-off"]


def test_a_batch_cut_short_is_not_taken_for_done(encoded: Place) -> None:
    batch = encode(Plan(actual=None, desired=POD), end_acknowledged=True)
    for cut in (20, 40, len(batch.data) // 2, len(batch.data) - 20, len(batch.data) - 1):
        with pytest.raises(KernelError):
            batches.send(encoded.netlink, replace(batch, data=batch.data[:cut]))
        assert encoded.text() == ""


def test_spoiled_bytes_are_an_error_or_another_ruleset_and_never_half_of_one(encoded: Place) -> None:
    chance = random.Random(4)
    batch = encode(Plan(actual=None, desired=GOLDENS["exclusions"]), end_acknowledged=True)
    outcomes = set()
    for _ in range(150):
        data = bytearray(batch.data)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(20, len(data) - 20)] = chance.randrange(256)
        with opened(encoded.namespace) as netlink:  # closed again: the spoiled table may be an owned one
            try:
                batches.send(netlink, replace(batch, data=bytes(data)))
            except KernelError as error:
                outcomes.add("refused" if error.said else "refused without a reason")
                assert not netlink.dump(GETTABLE, bytes(4), statement="tables").expect("tables")
            else:
                outcomes.add("taken")
                assert netlink.dump(GETTABLE, bytes(4), statement="tables").expect("tables")
        encoded.flush()
    assert outcomes == {"refused", "taken"}
    encoded.make(POD)
    assert encoded.read(POD.table) == POD


def test_answers_that_find_no_room_are_said_to_be_lost(encoded: Place) -> None:
    with opened(encoded.namespace) as netlink:
        netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        # Every message of it fails, and every failure is answered.
        with pytest.raises(AnswerLost, match="No buffer space"):
            batches.send(netlink, encode(Plan(actual=POD, desired=GOLDENS["exclusions"])))
        batches.send(netlink, encode(Plan(actual=None, desired=POD)))  # one answer finds room
    assert encoded.read(POD.table) == POD


def test_what_is_left_of_an_earlier_answer_is_not_taken_for_this_one(encoded: Place) -> None:
    batch = encode(Plan(actual=None, desired=POD))
    encoded.netlink._socket.send(batch.data)  # its answer stays unread
    with pytest.raises(KernelError, match="ENOENT"):
        batches.send(encoded.netlink, encode(Plan(actual=GOLDENS["everything"], desired=None)))
