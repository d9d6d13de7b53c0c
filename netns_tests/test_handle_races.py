"""A handle while others write at the same moment: nothing of theirs is lost, nothing old is taken for new."""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest

from agent.errors import GenerationMoved, TableHeld
from agent.kernel import batches
from agent.kernel.handle import Handle
from agent.kernel.known import after
from agent.kernel.netns import Netns
from agent.targets import State
from netns_tests.enrolling import Weir, kernel_state
from netns_tests.namespace import Namespace
from netns_tests.nft_context import Nft
from netns_tests.rivals import busy, owner_of, tables
from netns_tests.test_live_errors import TAMPERED
from netns_tests.world import eventually
from rulesets import pod
from rulesets.capture import Capture
from rulesets.diff import diff
from rulesets.model import Ruleset
from rulesets.netlink import OWNED
from rulesets.pod import POD_TABLE

RULES = pod.build(Capture())
OTHER = pod.build(Capture.parse({"dns": False, "outbound_port": 16001, "exclude_outbound_ports": [9]}))
FLAGS = [None, OWNED]
MOST_SENDS = 6  # of one write: five while the generation may not move, and one when it moved each time


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace.create("races") as made:
        yield made


@pytest.fixture(params=FLAGS, ids=["unowned", "owned"])
def handle(request: pytest.FixtureRequest, namespace: Namespace) -> Iterator[Handle]:
    made = Handle(Netns(namespace.name), flags=request.param)
    yield made
    made.close()


class Sends:
    """What happens just before a batch is sent: each is counted, and others get their turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.first: list[Callable[[], object]] = []
        send = batches.send

        def counted(*arguments: Any, **named: Any) -> None:
            self.count += 1
            if self.first:
                self.first.pop(0)()
            send(*arguments, **named)

        monkeypatch.setattr(batches, "send", counted)


@pytest.fixture
def sends(monkeypatch: pytest.MonkeyPatch) -> Sends:
    return Sends(monkeypatch)


def witnessed(namespace: Namespace) -> Ruleset | None:
    """Our table as somebody reads it who has never looked before."""
    fresh = Handle(Netns(namespace.name))
    try:
        return fresh.read(POD_TABLE)
    finally:
        fresh.close()


def shown(ruleset: Ruleset | None) -> str:
    """A ruleset as text without its counts: what is foreign equals nothing, not even when it is read again."""
    if ruleset is None:
        return ""
    return repr(replace(ruleset, counters=tuple(replace(each, packets=0, bytes=0) for each in ruleset.counters)))


@pytest.mark.timeout(180)
def test_every_write_arrives_while_others_change_tables_of_theirs(
    handle: Handle, namespace: Namespace, sends: Sends
) -> None:
    handle.apply(diff(None, RULES))
    with busy(namespace, 2):
        moved, most = handle.generation(), 0
        for number in range(40):
            old, new = (RULES, OTHER) if number % 2 == 0 else (OTHER, RULES)
            assert handle.look(POD_TABLE) == old
            sends.count = 0
            handle.apply(diff(old, new))
            most = max(most, sends.count)
            assert handle.look(POD_TABLE) == new
            if number % 8 == 0:
                assert handle.read(POD_TABLE) == new
                assert witnessed(namespace) == new
        assert handle.generation() - moved > 1000, "the others were at it all the time"
    assert most <= MOST_SENDS
    assert witnessed(namespace) == RULES


def test_a_write_is_done_once_although_others_are_always_quicker(
    handle: Handle, namespace: Namespace, sends: Sends
) -> None:
    nft = Nft(namespace)
    handle.apply(diff(None, RULES))
    assert handle.look(POD_TABLE) == RULES
    sends.first = [partial(nft.load, f"add table ip quick{number}") for number in range(20)]
    sends.count = 0
    handle.apply(diff(RULES, OTHER))
    assert sends.count == MOST_SENDS
    assert witnessed(namespace) == OTHER


@pytest.mark.parametrize("what", TAMPERED)
def test_a_change_of_ours_between_look_and_write_is_seen_and_nothing_is_written(
    namespace: Namespace, sends: Sends, what: str
) -> None:
    nft, handle = Nft(namespace), Handle(Netns(namespace.name))
    before = pod.build(Capture.parse({"exclude_outbound_ports": [9]}))
    handle.apply(diff(None, before))
    assert handle.look(POD_TABLE) == before
    sends.first = [lambda: nft.load(TAMPERED[what])]
    with pytest.raises(GenerationMoved, match="have changed since"):
        handle.apply(diff(before, OTHER))
    tampered = witnessed(namespace)
    assert tampered != before
    assert shown(handle.look(POD_TABLE)) == shown(tampered)
    handle.apply(diff(handle.look(POD_TABLE), OTHER))
    assert witnessed(namespace) == OTHER
    assert "weir-pod" in tables(namespace)
    handle.close()


@pytest.mark.timeout(120)
def test_a_table_that_somebody_has_changed_is_repaired_while_others_are_busy(
    namespace: Namespace, tmp_path: Path
) -> None:
    wanted = {"when_proxy_absent": "capture"}
    with Weir(namespace, tmp_path) as weir:
        assert weir.capture(**wanted).state is State.DEGRADED
        clean = shown(witnessed(namespace))
        with busy(namespace, 2):
            for what in ("rule", "chain", "map"):
                namespace.nft(TAMPERED[what])
                for _ in range(3):
                    outcome = weir.capture(**wanted)
                    if outcome.state is State.DEGRADED:
                        break
                assert outcome.state is State.DEGRADED, outcome.reason
                assert shown(witnessed(namespace)) == clean


@pytest.mark.parametrize("times", [1, 3, 50])
@pytest.mark.parametrize("what", ["rule", "chain", "jump", "flushed", "table gone", "another place"])
def test_a_pass_ends_right_whoever_changes_our_table_meanwhile(
    namespace: Namespace, tmp_path: Path, sends: Sends, what: str, times: int
) -> None:
    nft = Nft(namespace)
    with Weir(namespace, tmp_path) as weir:
        first = {"when_proxy_absent": "capture", "exclude_outbound_ports": [9]}
        assert weir.capture(**first).state is State.DEGRADED
        clean = kernel_state(namespace)
        assert weir.capture(**{**first, "exclude_outbound_ports": [9, 10]}).state is State.DEGRADED

        def again(number: int) -> None:
            nft.load(f"add table inet weir-pod\nadd chain inet weir-pod again{number}")

        sends.first = [partial(nft.load, TAMPERED[what]), *(partial(again, number) for number in range(1, times))]
        outcome = weir.capture(**first)
        if outcome.state is State.FAILED:
            assert times > MOST_SENDS, outcome.reason
            sends.first = []
            assert weir.capture(**first).state is State.DEGRADED
        assert kernel_state(namespace) == clean


def test_a_look_never_returns_what_was(handle: Handle, namespace: Namespace) -> None:
    chance = random.Random(4)
    nft, kinds = Nft(namespace), set()
    second = Handle(Netns(namespace.name))  # another process' eyes, with a memory of its own

    def ours() -> None:
        actual = handle.look(POD_TABLE)
        handle.apply(diff(actual, chance.choice((None, RULES, OTHER))))

    def tampered() -> None:
        nft.load(chance.choice(list(TAMPERED.values())))

    def others() -> None:
        nft.load("add table ip others")
        if chance.random() < 0.5:
            nft.load("delete table ip others")

    def flushed() -> None:
        nft.load("flush ruleset")

    def replaced() -> None:
        nft.load(f"add table inet weir-pod\ndelete table inet weir-pod\n{TEXTS[chance.randrange(2)]}")

    for _ in range(150):
        act = chance.choice((ours, tampered, tampered, others, flushed, replaced))
        try:
            act()
        except RuntimeError:
            kinds.add(f"{act.__name__} refused")
        else:
            kinds.add(act.__name__)
        for each in chance.sample((handle, second), chance.choice((1, 2))):
            assert shown(each.look(POD_TABLE)) == shown(witnessed(namespace)), act.__name__
        if chance.random() < 0.3:
            assert shown(handle.look(POD_TABLE)) == shown(handle.read(POD_TABLE))
    second.close()
    assert {"ours", "tampered", "others", "flushed"} <= kinds
    assert "replaced" in kinds or "replaced refused" in kinds


TEXTS = [
    "table inet weir-pod { chain c { type filter hook input priority 0; tcp dport 7 drop; }; }",
    "table inet weir-pod { counter one { }; }",
]


def test_a_table_that_goes_with_its_owner_is_missed_although_no_generation_moves(
    namespace: Namespace,
) -> None:
    for killed in (signal.SIGKILL, signal.SIGTERM):
        handle = Handle(Netns(namespace.name))
        body = "add chain inet weir-pod theirs { type filter hook input priority 0; }"
        with owner_of(namespace, "owner", body) as process:
            assert handle.look(POD_TABLE) is not None
            generation = handle.generation()
            process.send_signal(killed)
            process.wait()
            eventually(lambda: "weir-pod" not in tables(namespace), "the table goes with its owner")
        assert handle.generation() == generation
        assert handle.look(POD_TABLE) is None
        handle.close()


def test_a_table_that_persists_is_known_without_being_read_again(namespace: Namespace) -> None:
    handle = Handle(Netns(namespace.name))
    with Owned(namespace) as owned:
        assert handle.look(POD_TABLE) == RULES
        owned.close()
    assert handle.look(POD_TABLE) == RULES == witnessed(namespace)
    handle.close()


class Owned:
    """A handle of another Weir that owns the table."""

    def __init__(self, namespace: Namespace) -> None:
        self._handle = Handle(Netns(namespace.name), flags=OWNED)
        self._handle.apply(diff(None, RULES))

    def close(self) -> None:
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def test_an_ignored_hold_leaves_nothing_known_that_is_not_so(namespace: Namespace) -> None:
    # Where another Weir owns the very rules that are wanted, there is nothing to write, and no generation to come.
    theirs = Handle(Netns(namespace.name), flags=OWNED)
    theirs.apply(diff(None, RULES))
    ours = Handle(Netns(namespace.name), flags=OWNED)
    assert ours.look(POD_TABLE) == RULES
    with suppress(TableHeld):
        ours.hold(RULES)
    theirs.apply(diff(RULES, OTHER))  # just one generation on
    assert ours.look(POD_TABLE) == OTHER
    theirs.close()
    ours.close()


def test_the_generation_after_the_last_is_one() -> None:
    assert after(1) == 2
    assert after(2**32 - 2) == 2**32 - 1
    assert after(2**32 - 1) == 1
