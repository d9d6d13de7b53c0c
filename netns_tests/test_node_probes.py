"""The node's table follows its pods element by element, survives everybody else, and is never seen empty."""

import asyncio
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import TableHeld, TargetError
from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from netns_tests.machine import Machine
from netns_tests.namespace import Namespace
from netns_tests.probing import OWNED, Probing, elements, targets
from netns_tests.traffic import EchoServer, exchange
from netns_tests.world import World, eventually
from rulesets import pod
from rulesets.capture import PROBE_SOURCES, Capture
from rulesets.diff import diff
from rulesets.host import HOST_TABLE

ROOT = Path(__file__).parent.parent
SOURCES = {str(each) for each in PROBE_SOURCES}
PORT = 8080


@pytest.fixture
def node() -> Iterator[Namespace]:
    with Namespace.create("node") as made:
        yield made


@contextmanager
def probed(world: World, *families: int) -> Iterator[list[str]]:
    """Probe a pod without a pause, until the block ends; all sources that it saw."""
    seen: list[str] = []
    enough = threading.Event()

    def probe() -> None:
        while not enough.is_set():
            seen.append(exchange(world.node, (world.pods[0].v4, PORT)).seen[0])

    with EchoServer(world.pods[0], PORT):
        probing = world.node.thread(probe)
        try:
            eventually(lambda: len(seen) > 20 or probing.done(), "probes")
            yield seen
            before = len(seen)
            eventually(lambda: len(seen) > before + 20 or probing.done(), "probes")
        finally:
            enough.set()
            probing.result(20)


def test_a_pod_is_some_elements_with_its_uid(node: Namespace) -> None:
    with Probing(node) as life:
        life.put("a", "10.0.0.1", "fd00::1")
        life.put("b", "10.0.0.2", "fd00::2", ports=(80, 9090))
        assert elements(node) == {
            "10.0.0.1": "a",
            "fd00::1": "a",
            "10.0.0.2 . 80": "b",
            "10.0.0.2 . 9090": "b",
            "fd00::2 . 80": "b",
            "fd00::2 . 9090": "b",
        }
        life.put("b", "10.0.0.2", ports=(80, 81))
        assert elements(node) == {"10.0.0.1": "a", "fd00::1": "a", "10.0.0.2 . 80": "b", "10.0.0.2 . 81": "b"}
        life.drop("a")
        life.put("b")
        assert elements(node) == {}
        assert life.as_written()


def test_an_address_that_is_another_pod_s_by_now_stays_when_the_first_one_goes(node: Namespace) -> None:
    with Probing(node) as life:
        life.put("old", "10.0.0.1", "fd00::1")
        life.put("new", "10.0.0.1", "fd00::1")
        assert elements(node) == {"10.0.0.1": "new", "fd00::1": "new"}
        life.drop("old")
        assert elements(node) == {"10.0.0.1": "new", "fd00::1": "new"}
        life.put("twin", "10.0.0.1", "10.0.0.2")
        life.drop("twin")
        assert elements(node) == {"10.0.0.1": "new", "fd00::1": "new"}
        life.put("narrow", "10.0.0.1", ports=(80,))
        life.drop("new")
        assert elements(node) == {"10.0.0.1 . 80": "narrow"}
        assert life.as_written()


def test_whatever_comes_and_goes_the_newest_pod_owns_an_element(node: Namespace) -> None:
    chance = random.Random("probes")
    wanted: dict[str, dict[str, None]] = {}
    with Probing(node) as life:
        for number in range(300):
            uid = chance.choice("abcdef")
            addresses = chance.sample(["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"], chance.randrange(4))
            ports = chance.choice([(), (80,), (80, 81)])
            wanted.pop(uid, None)
            if addresses:
                wanted[uid] = dict.fromkeys(
                    f"{each} . {port}" if port else each for each in addresses for port in ports or (0,)
                )
            if number == 150:
                life.fill()
            life.put(uid, *addresses, ports=ports)
            owners = {place: each for each, places in wanted.items() for place in places}
            assert elements(node) == owners, f"step {number}"
        assert life.as_written()


def test_many_pods_at_once_are_all_there(node: Namespace) -> None:
    async def all_at_once(life: Probing) -> None:
        puts = (life.probes.put(f"u{n}", targets(f"u{n}", f"10.0.{n // 250}.{n % 250 + 1}")) for n in range(500))
        await asyncio.gather(*puts)

    with Probing(node) as life:
        life.wait(all_at_once(life))
        assert len(elements(node)) == 500
        assert life.as_written()


def test_a_put_that_nobody_waits_for_any_more_is_carried_out_and_can_be_taken_back(node: Namespace) -> None:
    async def given_up(life: Probing) -> None:
        for number in range(50):
            put = asyncio.ensure_future(life.probes.put(f"u{number}", targets(f"u{number}", f"10.0.0.{number + 1}")))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            put.cancel()
            await asyncio.gather(put, return_exceptions=True)
        await asyncio.gather(*(life.probes.drop(f"u{number}") for number in range(0, 50, 2)))

    with Probing(node) as life:
        life.wait(given_up(life))
        life.put("last", "10.0.1.1")
        there = elements(node)
        # One that was cancelled before it began is as if nobody had asked.
        assert not [uid for uid in there.values() if uid != "last" and int(uid[1:]) % 2 == 0]
        assert life.as_written()


def test_what_an_earlier_agent_left_stays_until_all_is_known(node: Namespace) -> None:
    with Probing(node) as life:
        life.fill(a=("10.0.0.1",), b=("10.0.0.2", "fd00::2"), c=("10.0.0.3",))
    assert len(elements(node)) == 4
    with Probing(node) as life:
        life.put("d", "10.0.0.4")
        life.put("c", "10.0.0.5")
        assert elements(node).keys() >= {"10.0.0.1", "10.0.0.2", "fd00::2", "10.0.0.4", "10.0.0.5"}
        life.drop("nobody")
        life.fill(a=("10.0.0.1",), b=("10.0.0.7",))
        assert elements(node) == {"10.0.0.1": "a", "10.0.0.7": "b", "10.0.0.4": "d", "10.0.0.5": "c"}
        with pytest.raises(RuntimeError, match="Operation not permitted"):
            node.nft("delete table inet weir-host")
    with Probing(node) as life:
        life.fill(a=("10.0.0.1",))
        assert elements(node) == {"10.0.0.1": "a"}


def test_probes_go_on_while_one_agent_follows_another(world: World) -> None:
    pod_ = world.pods[0]
    with Probing(world.node) as life:
        life.fill(a=(pod_.v4,), b=("10.9.9.1",))
    with probed(world) as seen:
        for round_ in range(10):
            with Probing(world.node) as life:
                if round_ % 2:
                    life.put("c", f"10.9.9.{round_ + 1}")
                for _ in range(5):
                    life.fill(a=(pod_.v4,), b=(f"10.9.8.{round_ + 1}",))
                    life.put("other", pod_.v4)
                    life.drop("other")
                    life.put("other", pod_.v4)
                    life.put("a", pod_.v4)
                    life.drop("other")
    assert set(seen) <= SOURCES
    assert elements(world.node)[pod_.v4] == "a"


def test_nobody_else_flushes_an_owned_table(world: World) -> None:
    pod_ = world.pods[0]
    with Probing(world.node, keep=True) as life:
        life.put("a", pod_.v4)
        with probed(world) as seen:
            for _ in range(20):
                world.node.nft("flush ruleset")
        assert set(seen) <= SOURCES
        assert life.mended() == 0


def test_a_table_that_another_process_owns_is_named(node: Namespace) -> None:
    with Probing(node) as first, Probing(node) as second:
        first.put("a", "10.0.0.1")
        with pytest.raises(TableHeld, match="table inet weir-host is owned by"):
            second.put("b", "10.0.0.2")
        assert elements(node) == {"10.0.0.1": "a"}
        first.wait(first.probes.close())
        second.put("c", "10.0.0.3")
        assert elements(node) == {"10.0.0.1": "a", "10.0.0.2": "b", "10.0.0.3": "c"}, "the wish has stood"


def test_a_node_that_is_captured_itself_is_not_taken_from(node: Namespace) -> None:
    captured = pod.build(Capture(), table=HOST_TABLE)
    handle = Handle(Netns(node.name))
    try:
        handle.apply(diff(None, captured))
        with Probing(node) as life:
            with pytest.raises(TargetError, match="captures the node's own traffic") as refused:
                life.put("a", "10.0.0.1")
            assert "weir remove --netns host" in refused.value.hint
            with Probing(node) as leaving:
                leaving.wait(leaving.probes.remove())
            assert handle.read(HOST_TABLE) == captured
            handle.apply(diff(captured, None))
            life.put("b", "10.0.0.2")
            assert elements(node) == {"10.0.0.1": "a", "10.0.0.2": "b"}
    finally:
        handle.close()


@pytest.mark.parametrize("uid", ['a"', "a\nflush ruleset", "x" * 129, "ä"])
def test_a_uid_that_can_t_be_written_hurts_no_other_pod(node: Namespace, uid: str) -> None:
    with Probing(node) as life:
        life.put("a", "10.0.0.1")
        with pytest.raises(TargetError, match="the probes of pod"):
            life.put(uid, "10.0.0.2")
        life.put("b", "10.0.0.3")
        assert elements(node) == {"10.0.0.1": "a", "10.0.0.3": "b"}


@pytest.mark.parametrize("flags", [OWNED, None], ids=["owned", "nobody's"])
def test_uninstalling_takes_the_table_away(node: Namespace, flags: tuple[str, ...] | None) -> None:
    before = node.command("nft", "list", "ruleset")
    with Probing(node, flags=flags) as life:
        life.fill(a=("10.0.0.1",))
    with Probing(node, flags=flags) as life:
        life.wait(life.probes.remove())
        assert node.command("nft", "list", "ruleset") == before
        life.wait(life.probes.remove())
    assert node.command("nft", "list", "ruleset") == before


_ON_THE_NODE = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from agent.daemon.threads import Threads
from agent.pods.probes import NodeProbes
from netns_tests.probing import OWNED, targets

async def main():
    threads = Threads(workers=ThreadPoolExecutor(1), afterwards=ThreadPoolExecutor(1))
    probes = NodeProbes(threads, flags=OWNED)
    await probes.fill({"a": targets("a", "10.0.0.1")})
    await probes.put("b", targets("b", "10.0.0.2", ports=(80,)))
    await probes.close()

asyncio.run(main())
"""


def test_by_default_it_is_the_node_s_own_namespace() -> None:
    with Machine() as machine:
        machine.run("env", f"PYTHONPATH={ROOT}", sys.executable, "-c", _ON_THE_NODE)
        listed = machine.run("nft", "list", "table", "inet", HOST_TABLE)
    assert '10.0.0.1 comment "a"' in listed
    assert '10.0.0.2 . 80 comment "b"' in listed
