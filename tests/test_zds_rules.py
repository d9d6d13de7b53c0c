"""The rules that stand for ztunnel punish what the real one was seen punishing, so that tests with them can fail."""

from dataclasses import dataclass

import pytest

from netns_tests.mesh_proxy_rules import Place, Rules


@dataclass(frozen=True, slots=True)
class Somewhere:
    identity: int = 1


ADD, KEEP, DELETE, SNAPSHOT = (
    bytes.fromhex(each) for each in ("0a0e0a017512090a017012016e1a0173", "2a030a0175", "1203120175", "1a00")
)
ADD_WITHOUT_INFO = bytes.fromhex("0a030a0175")
ONE: list[Place] = [Somewhere()]


class Ztunnel(Rules):
    def __init__(self) -> None:
        self.log: list[str] = []
        self.broken = ""
        super().__init__(self._began, lambda uid: self.log.append(f"stop {uid}"))
        self.connected()

    def _began(self, uid: str, place: Place) -> str:
        self.log.append(f"start {uid} {place.identity}")
        return self.broken


@pytest.mark.parametrize(
    ("packets", "why"),
    [
        ([ADD_WITHOUT_INFO], "Add without workload_info"),
        ([SNAPSHOT, KEEP], "Keep after the snapshot"),
        ([SNAPSHOT, SNAPSHOT], "a second SnapshotSent"),
        ([DELETE], "Delete before the snapshot"),
    ],
)
def test_the_process_ends(packets: list[bytes], why: str) -> None:
    ztunnel = Ztunnel()
    *before, last = [ztunnel.hear(each, ONE if each == ADD_WITHOUT_INFO else []) for each in packets]
    assert [each.how for each in before] == ["ack"] * len(before)
    assert (last.how, last.words) == ("exit", why)


@pytest.mark.parametrize(
    ("packet", "places", "cut"),
    [
        (ADD, [], False),
        (ADD, [Somewhere(), Somewhere()], False),
        (DELETE, ONE, False),
        (b"\xff\xff", [], False),
        (bytes.fromhex("3a00"), [], False),
        (b"", [], False),
        (ADD + bytes(1024), ONE, False),
        (ADD, ONE, True),
    ],
    ids=["no descriptor", "two", "one on Del", "garbage", "unknown payload", "no payload", "long", "cut"],
)
def test_the_connection_is_dropped_and_pods_are_kept(packet: bytes, places: list[Place], cut: bool) -> None:
    ztunnel = Ztunnel()
    ztunnel.hear(ADD, ONE)
    ztunnel.hear(SNAPSHOT)
    assert ztunnel.hear(packet, places, cut=cut).how == "drop"
    assert ztunnel.serving == {"u": 1}


def test_a_snapshot_ends_what_it_left_out() -> None:
    ztunnel = Ztunnel()
    ztunnel.hear(ADD, ONE)
    ztunnel.connected()
    before = ztunnel.ready
    ztunnel.hear(SNAPSHOT)
    assert (before, ztunnel.ready) == (False, True)
    assert ztunnel.log == ["start u 1", "stop u"]


def test_what_is_kept_or_added_again_goes_on() -> None:
    ztunnel = Ztunnel()
    ztunnel.hear(ADD, ONE)
    for named in (KEEP, ADD):
        ztunnel.connected()
        ztunnel.hear(named, ONE if named == ADD else [])
        ztunnel.hear(SNAPSHOT)
    assert ztunnel.log == ["start u 1"]
    ztunnel.hear(ADD, [Somewhere(2)])
    assert ztunnel.log == ["start u 1", "stop u", "start u 2"]


def test_what_can_t_start_is_refused_waits_and_withholds_readiness() -> None:
    ztunnel = Ztunnel()
    ztunnel.broken = "no lo"
    said = ztunnel.hear(ADD, ONE)
    assert (said.how, said.words) == ("nack", "failure to start proxy : no lo")
    ztunnel.hear(SNAPSHOT)
    before = ztunnel.ready
    ztunnel.broken = ""
    ztunnel.retry()
    assert (before, ztunnel.ready) == (False, True)
    assert ztunnel.serving == {"u": 1}
