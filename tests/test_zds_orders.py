"""Three proxies and whatever happens in whatever order: none is ended or left with other pods than are wanted."""

from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from agent.mesh.session import Kept, Phase, Served, Session, Wish
from agent.mesh.wire import Add, Request, encode
from netns_tests.mesh_proxy_rules import Place, Rules
from tests.zds_pods import Wishes, served


class Proxies:
    """Some proxies and an agent: a connection can end between a request and its answer, and proxies survive it."""

    def __init__(self, complete: bool) -> None:
        self.wishes = Wishes({}, complete=complete)
        self.deleted: set[str] = set()
        self.failing: set[str] = set()
        self.rules = [Rules(self._start, self._stop) for _ in range(3)]
        self.sessions: list[Session | None] = [None, None, None]
        self.order: list[int] = []  # of those connected
        self.answers: dict[int, str] = {}
        self._newest: int | None = None

    def _start(self, uid: str, place: Place) -> str:
        return "it can't" if uid in self.failing else ""

    def _stop(self, uid: str) -> None:
        self.stopped.append(uid)

    def put(self, uid: str, wish: Wish | None) -> None:
        if wish is None:
            self.wishes.wishes.pop(uid, None)
            self.deleted.add(uid)
        elif isinstance(wish, Served) or uid not in self.wishes.wishes:
            self.wishes.wishes[uid] = wish
            self.deleted.discard(uid)
        for session in self.sessions:
            if session is not None:
                session.look_at(uid, first=True)

    def connect(self, number: int) -> None:
        self.disconnect(number)
        self.rules[number].connected()
        self.sessions[number] = Session(self.wishes)
        self.order.append(number)

    def disconnect(self, number: int) -> None:
        self.sessions[number] = None
        self.answers.pop(number, None)
        if number in self.order:
            self.order.remove(number)
        self.elect()

    def elect(self) -> None:
        having = [each for each in self.order if (found := self.sessions[each]) and found.has_snapshot]
        newest = having[-1] if having else None
        if newest != self._newest:
            self._newest = newest
            if newest is not None and (session := self.sessions[newest]):
                session.look_at_all()

    def step(self, number: int) -> bool:
        """Let a proxy say hello, hear a request, or answer it; tell whether it did anything."""
        session = self.sessions[number]
        if session is None:
            return False
        if session.phase is Phase.GREETING:
            session.greeted()
            return True
        if number in self.answers:
            session.answered(self.answers.pop(number))
            self.elect()
            return True
        request = session.next(newest=number == self._newest)
        if request is None:
            return False
        session.sent(request)
        self._hear(number, request)
        return True

    def _hear(self, number: int, request: Request) -> None:
        self.stopped: list[str] = []
        before: dict[str, Hashable] = dict(self.rules[number].serving)
        places = [request.netns] if isinstance(request, Add) else []
        said = self.rules[number].hear(encode(request), places)
        assert said.how in ("ack", "nack"), f"{request}: {said.how}, {said.words}"
        self.answers[number] = said.words
        for uid in self.stopped:
            wish = self.wishes.wish(uid)
            assert wish is not None or uid in self.deleted or self.wishes.complete, f"{uid} was left out"
            assert not isinstance(wish, Kept), f"{uid} was to be kept"
            assert wish is None or wish.netns.identity != before[uid], f"{uid} was ended, and is wanted"


UIDS = st.sampled_from("abcd")
NUMBERS = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("serve"), UIDS, st.integers(1, 2)),
    st.tuples(st.just("delete"), UIDS, st.just(0)),
    st.tuples(st.just("keep"), UIDS, st.just(0)),
    st.tuples(st.just("fail"), UIDS, st.integers(0, 1)),
    st.tuples(st.just("connect"), st.just(""), NUMBERS),
    st.tuples(st.just("disconnect"), st.just(""), NUMBERS),
    st.tuples(st.just("step"), st.just(""), NUMBERS),
    st.tuples(st.just("steps"), st.just(""), NUMBERS),
    st.tuples(st.just("complete"), st.just(""), st.just(0)),
)


def perform(proxies: Proxies, what: str, uid: str, number: int) -> None:
    match what:
        case "serve":
            proxies.put(uid, served(uid, number))
        case "delete":
            proxies.put(uid, None)
        case "keep":
            proxies.put(uid, Kept(uid))
        case "fail":
            (proxies.failing.add if number else proxies.failing.discard)(uid)
        case "connect":
            proxies.connect(number)
        case "disconnect":
            proxies.disconnect(number)
        case "step":
            proxies.step(number)
        case "steps":
            while proxies.step(number):
                pass
        case _:
            proxies.wishes.complete = True


@given(st.booleans(), st.lists(STEPS, max_size=60))
def test_no_order_of_events_ends_a_proxy_or_leaves_it_with_other_pods(
    complete: bool, steps: list[tuple[str, str, int]]
) -> None:
    proxies = Proxies(complete)
    for step in steps:
        perform(proxies, *step)
    proxies.failing.clear()
    proxies.wishes.complete = True
    for session in proxies.sessions:
        if session is not None:
            session.retry()
    while sum(proxies.step(number) for number in range(3)):
        pass
    wanted = {uid: wish.netns.identity for uid, wish in proxies.wishes.wishes.items() if isinstance(wish, Served)}
    for number in proxies.order:
        rules, session = proxies.rules[number], proxies.sessions[number]
        assert session is not None
        assert session.has_snapshot
        kept = {uid for uid, wish in proxies.wishes.wishes.items() if isinstance(wish, Kept)}
        serving = {uid: identity for uid, identity in rules.serving.items() if uid not in kept}
        if number == proxies.order[-1]:
            assert serving == wanted
            assert rules.ready
        assert serving.items() <= wanted.items()
