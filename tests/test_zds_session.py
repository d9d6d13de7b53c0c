"""What one proxy is told: every pod once, in turn, and what it refuses again."""

import pytest

from agent.mesh.session import Kept, Phase, Session, Violation
from agent.mesh.wire import Add, Delete, Keep, Request, SnapshotSent
from tests.zds_pods import Wishes, served


def answer_all(session: Session, *, newest: bool = True, refused: dict[str, str] | None = None) -> list[str]:
    """Acknowledge until there is nothing to send; return what was sent, in words."""
    requests = []
    while (request := session.next(newest=newest)) is not None:
        session.sent(request)
        uid = request.workload.uid if isinstance(request, Add) else ""
        session.answered((refused or {}).get(uid, ""))
        requests.append(words(request))
    return requests


def words(request: Request) -> str:
    match request:
        case Add(workload=workload, netns=netns):
            return f"add {workload.uid} {netns.identity}"
        case Keep(uid=uid):
            return f"keep {uid}"
        case Delete(uid=uid):
            return f"delete {uid}"
        case SnapshotSent():
            return "snapshot"


def live(wishes: Wishes) -> Session:
    session = Session(wishes)
    session.greeted()
    answer_all(session)
    assert session.phase is Phase.LIVE
    return session


def test_nothing_is_said_before_hello() -> None:
    session = Session(Wishes({"a": served("a")}))
    session.look_at("a")
    assert session.next(newest=True) is None
    assert not session.lets_go_of("a")


def test_a_snapshot_names_every_pod_and_ends_when_all_are_known() -> None:
    wishes = Wishes({"a": served("a"), "b": Kept("b")}, complete=False)
    session = Session(wishes)
    session.greeted()
    assert answer_all(session) == ["add a 1", "keep b"]
    wishes.wishes["c"] = served("c")
    session.look_at("c")
    assert answer_all(session) == ["add c 1"]
    wishes.complete = True
    assert answer_all(session) == ["snapshot"]
    assert answer_all(session) == []


def test_one_request_waits_for_the_answer_to_another() -> None:
    session = Session(Wishes({"a": served("a"), "b": served("b")}))
    session.greeted()
    first = session.next(newest=True)
    assert first is not None
    session.sent(first)
    assert session.next(newest=True) is None
    session.answered("")
    assert session.next(newest=True) is not None


def test_pods_that_somebody_waits_for_go_first_and_in_turn() -> None:
    wishes = Wishes({uid: served(uid) for uid in "ab"})
    session = Session(wishes)
    session.greeted()
    for uid in ("new", "newer"):
        wishes.wishes[uid] = served(uid)
        session.look_at(uid, first=True)
    assert answer_all(session) == ["add new 1", "add newer 1", "add a 1", "add b 1", "snapshot"]


def test_a_pod_deleted_during_the_snapshot_is_left_out_or_deleted_after_it() -> None:
    wishes = Wishes({"a": served("a"), "b": served("b"), "c": served("c")})
    session = Session(wishes)
    session.greeted()
    first = session.next(newest=False)
    assert isinstance(first, Add)
    session.sent(first)
    for uid in ("a", "b"):
        del wishes.wishes[uid]
        session.look_at(uid)
    session.answered("")
    assert answer_all(session, newest=False) == ["add c 1", "snapshot", "delete a"]
    assert session.lets_go_of("a")
    assert session.lets_go_of("b")


def test_a_kept_pod_deleted_before_all_are_known_is_deleted_after_the_snapshot() -> None:
    wishes = Wishes({"a": Kept("a")}, complete=False)
    session = Session(wishes)
    session.greeted()
    assert answer_all(session) == ["keep a"]
    del wishes.wishes["a"]
    session.look_at("a")
    assert answer_all(session) == []
    wishes.complete = True
    assert answer_all(session) == ["snapshot", "delete a"]


def test_a_pod_wanted_again_before_its_delete_was_said_is_not_deleted() -> None:
    wishes = Wishes({"a": served("a")})
    session = live(wishes)
    wish = wishes.wishes.pop("a")
    session.look_at("a")
    wishes.wishes["a"] = wish
    session.look_at("a")
    assert answer_all(session) == []
    assert session.serves("a", 1)


def test_a_delete_goes_to_a_proxy_that_was_never_told_of_the_pod() -> None:
    wishes = Wishes({})
    session = live(wishes)
    session.look_at("a")
    assert not session.lets_go_of("a")
    assert answer_all(session, newest=False) == ["delete a"]
    assert session.lets_go_of("a")


def test_only_the_newest_hears_of_new_pods() -> None:
    wishes = Wishes({})
    session = live(wishes)
    wishes.wishes["a"] = served("a")
    session.look_at("a")
    assert answer_all(session, newest=False) == []
    session.look_at_all()
    assert answer_all(session, newest=True) == ["add a 1"]


def test_another_namespace_replaces_the_first_and_frees_it_everywhere() -> None:
    wishes = Wishes({"a": served("a", 1)})
    new, old = live(wishes), live(wishes)
    wishes.wishes["a"] = served("a", 2)
    for session in (new, old):
        session.look_at("a")
    assert not new.serves("a", 2)
    assert answer_all(new, newest=True) == ["add a 2"]
    assert new.serves("a", 2)
    assert answer_all(old, newest=False) == ["delete a"]


def test_a_kept_pod_is_added_when_its_namespace_is_found_and_not_deleted_by_another_proxy() -> None:
    wishes = Wishes({"a": Kept("a")})
    new, old = live(wishes), live(wishes)
    wishes.wishes["a"] = served("a")
    for session in (new, old):
        session.look_at("a")
    assert answer_all(new, newest=True) == ["add a 1"]
    assert answer_all(old, newest=False) == []


def test_what_is_refused_is_tried_again_and_does_not_hold_up_the_snapshot() -> None:
    session = Session(Wishes({"a": served("a"), "b": served("b")}))
    session.greeted()
    assert answer_all(session, refused={"a": "no"}) == ["add a 1", "add b 1", "snapshot"]
    assert session.refused == {"a": "no"}
    assert not session.serves("a", 1)
    session.retry()
    assert answer_all(session) == ["add a 1"]
    assert session.refused == {}
    assert session.serves("a", 1)


def test_a_refused_pod_is_deleted_when_it_goes() -> None:
    wishes = Wishes({"a": served("a")})
    session = Session(wishes)
    session.greeted()
    answer_all(session, refused={"a": "no"})
    del wishes.wishes["a"]
    session.look_at("a")
    assert answer_all(session) == ["delete a"]
    assert session.lets_go_of("a")


def test_a_refusal_of_what_is_wanted_no_longer_is_not_held_against_the_pod() -> None:
    wishes = Wishes({})
    session = live(wishes)
    wishes.wishes["a"] = served("a", 1)
    session.look_at("a")
    request = session.next(newest=True)
    assert request is not None
    session.sent(request)
    wishes.wishes["a"] = served("a", 2)
    session.look_at("a")
    session.answered("the namespace is gone")
    assert session.refused == {}
    assert answer_all(session) == ["add a 2"]


def test_an_answer_to_nothing_breaks_the_protocol() -> None:
    session = live(Wishes({}))
    with pytest.raises(Violation, match="asked nothing"):
        session.answered("")


def test_a_refused_snapshot_breaks_the_protocol() -> None:
    session = Session(Wishes({}))
    session.greeted()
    session.sent(SnapshotSent())
    with pytest.raises(Violation, match="refused the snapshot: no"):
        session.answered("no")
