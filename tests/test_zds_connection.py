"""One connection where the other end reads late, dies half-way, or says much."""

import asyncio
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from agent.mesh.connection import Connection, Patience
from agent.mesh.status import Proxy
from agent.mesh.wire import Request
from netns_tests.mesh_proxy_rules import answer, decode, hello
from netns_tests.patience import slow
from tests.zds_pods import Wishes, served

PATIENCE = Patience(hello=slow(5), answer=slow(0.2), retry=slow(5), pause=slow(1))


class File:
    """A file that stands for a namespace."""

    identity = 1

    def __init__(self) -> None:
        self._number = os.open("/dev/null", os.O_RDONLY)

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        os.close(self._number)


@dataclass
class Owner:
    """Writes down what happens."""

    said: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def greeted(self, connection: Connection) -> None:
        self._note("greeted")

    def answered(self, connection: Connection, request: Request, error: str, seconds: float) -> None:
        self._note(f"{type(request).__name__}: {error or 'ok'}")

    def ended(self, connection: Connection, why: str, *, fault: bool) -> None:
        self._note(f"{'fault' if fault else 'end'}: {why}")

    def _note(self, what: str) -> None:
        self.said.append(what)
        self.changed.set()

    async def until(self, condition: Callable[[str], bool]) -> None:
        async with asyncio.timeout(slow(5)):
            while not any(map(condition, self.said)):
                self.changed.clear()
                await self.changed.wait()


class Pair:
    """A connection with one pod to tell of, and its other end."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self.theirs.settimeout(slow(5))
        self.file = File()
        self.wishes = Wishes({"a": served("a", self.file)})
        self.owner = Owner()
        proxy = Proxy(pid=1, user=0, number=1)
        self.connection = Connection(self.ours, proxy, self.wishes, self.owner, PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.end("the test is over")
        self.ours.close()
        self.theirs.close()
        self.file.close()


def fill(opened: socket.socket) -> int:
    """Send until no more fits; return how many packets did."""
    count = 0
    try:
        while True:
            opened.send(b"x" * 1000)
            count += 1
    except BlockingIOError:
        return count


def test_a_request_waits_for_a_peer_that_does_not_read_and_is_what_is_wanted_then() -> None:
    async def run() -> list[str]:
        with Pair() as pair:
            count = fill(pair.ours)
            pair.theirs.send(hello())
            await pair.owner.until(lambda said: said == "greeted")
            del pair.wishes.wishes["a"]  # while it can't be said
            pair.connection.session.look_at("a")
            for _ in range(count):
                pair.theirs.recv(2000)
            packet = await asyncio.to_thread(pair.theirs.recv, 2000)
            pair.theirs.send(answer())
            await pair.owner.until(lambda said: "Sent" in said)
            return [decode(packet).kind, *pair.owner.said]

    assert asyncio.run(run()) == ["snapshot", "greeted", "SnapshotSent: ok"]


def test_a_peer_that_never_reads_is_let_go_of() -> None:
    async def run() -> list[str]:
        with Pair() as pair:
            fill(pair.ours)
            pair.theirs.send(hello())
            await pair.owner.until(lambda said: said.startswith("fault"))
            return pair.owner.said

    assert asyncio.run(run()) == ["greeted", f"fault: it has not read within {PATIENCE.answer:g} s"]


def test_a_descriptor_goes_with_the_packet_and_stays_ours() -> None:
    async def run() -> int:
        with Pair() as pair:
            pair.theirs.send(hello())
            await pair.owner.until(lambda said: said == "greeted")
            packet, received, _, _ = socket.recv_fds(pair.theirs, 2000, 8)
            for each in received:
                os.close(each)
            os.fstat(pair.file.fileno())
            assert decode(packet).kind == "add"
            return len(received)

    assert asyncio.run(run()) == 1


def test_a_peer_that_dies_between_hello_and_the_first_request_is_just_gone() -> None:
    async def run() -> list[str]:
        with Pair() as pair:
            pair.theirs.send(hello())
            pair.theirs.close()
            await pair.owner.until(lambda said: said.startswith("end"))
            return pair.owner.said

    said = asyncio.run(run())
    assert said[0] == "greeted"
    assert said[1].startswith("end: Add of pod/n/p (a) could not be sent: Broken pipe")


def test_words_of_any_length_arrive_and_are_cut_to_what_can_be_read() -> None:
    async def run() -> str:
        with Pair() as pair:
            pair.theirs.send(hello())
            await pair.owner.until(lambda said: said == "greeted")
            pair.theirs.recv(2000)
            pair.theirs.send(answer("failure:\n" + "é\x1b[31m" * 5000))
            await pair.owner.until(lambda said: said.startswith("Add"))
            return pair.owner.said[-1]

    said = asyncio.run(run())
    assert said.startswith(r"Add: failure:\né\x1b[31mé")
    assert said.endswith("...")
    assert len(said) < 1100
