"""Whoever reaches the port of the metrics holds nothing up: not by silence, not by numbers, not by reading slowly."""

import asyncio
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry, Gauge

from agent.observe.endpoints import Listen, serve
from agent.observe.limits import Limits
from netns_tests.patience import slow

SECONDS = slow(30.0)
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Port:
    """A port that is listened on, and the connections that a test has made there."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._made: list[asyncio.StreamWriter] = []

    async def connect(self) -> Ends:
        ends = await asyncio.open_connection("127.0.0.1", self.number)
        self._made.append(ends[1])
        return ends

    def close(self) -> None:
        for each in self._made:
            each.close()


@asynccontextmanager
async def listening(limits: Limits, size: int = 1) -> AsyncIterator[Port]:
    """Listen on loopback; the answer has so many lines or more."""
    registry = CollectorRegistry()
    gauge = Gauge("weir_test", "test", ["number"], registry=registry)
    for number in range(size):
        gauge.labels(number).set(1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = Port(int(free.getsockname()[1]))
    runner = await serve(Listen(host="127.0.0.1", port=port.number), registry, lambda: "", limits=limits)
    assert runner is not None
    try:
        async with asyncio.timeout(SECONDS):
            yield port
    finally:
        port.close()
        await runner.cleanup()


async def answer(ends: Ends) -> bytes:
    """Return the answer to a request, with the connection kept."""
    reader, writer = ends
    writer.write(GET)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def closed(ends: Ends) -> bool:
    """Wait until the other side has closed a connection."""
    try:
        while await ends[0].read(65536):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("said", [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"])
def test_who_never_asks_is_let_go(said: bytes) -> None:
    async def run() -> None:
        async with listening(Limits(head=0.2)) as port:
            ends = await port.connect()
            ends[1].write(said)
            assert await closed(ends)
            assert (await answer(await port.connect())).startswith(b"HTTP/1.1 200")

    asyncio.run(run())


def test_who_sends_a_head_byte_by_byte_is_let_go_all_the_same() -> None:
    async def run() -> None:
        async with listening(Limits(head=0.5)) as port:
            ends = await port.connect()
            gone = asyncio.create_task(closed(ends))
            ends[1].write(b"GET /metrics HTTP/1.1\r\n")
            while not gone.done():
                ends[1].write(b"x")
                await asyncio.sleep(0.05)

    asyncio.run(run())


def test_a_connection_that_was_answered_is_kept_for_a_while() -> None:
    async def run() -> None:
        async with listening(Limits(head=SECONDS, idle=0.3)) as port:
            ends = await port.connect()
            for _ in range(3):
                assert (await answer(ends)).startswith(b"HTTP/1.1 200")
            assert await closed(ends)

    asyncio.run(run())


def test_who_does_not_read_the_answer_is_let_go() -> None:
    async def run() -> None:
        async with listening(Limits(answer=0.5), size=100_000) as port:
            loop = asyncio.get_running_loop()
            with socket.socket() as opened:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                opened.setblocking(False)
                await loop.sock_connect(opened, ("127.0.0.1", port.number))
                await loop.sock_sendall(opened, GET)
                ended = select.poll()
                ended.register(opened, 0)
                # Not a byte is read until the other side has had enough.
                assert await asyncio.to_thread(ended.poll, SECONDS * 1000)

    asyncio.run(run())


def test_the_oldest_that_has_asked_for_nothing_makes_room() -> None:
    async def run() -> None:
        async with listening(Limits(most=8)) as port:
            holding = [await port.connect() for _ in range(30)]
            assert (await answer(await port.connect())).startswith(b"HTTP/1.1 200")
            assert all([await closed(each) for each in holding[:20]])
            assert (await answer(holding[-1])).startswith(b"HTTP/1.1 200")

    asyncio.run(run())
