"""What a migration refuses changes nothing; others' rules stay to the byte; a held lock is waited for and told of."""

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from netns_tests.clients import udp_ask
from netns_tests.foreign_rules import COUNTED_PORT, counted
from netns_tests.migrating import AGENTS, lock_file, rules, steps
from netns_tests.migration_scene import Scene
from netns_tests.servers import UdpEchoServer
from netns_tests.world import World, eventually
from netns_tests.xtables_lock import held
from rulesets.vocabulary import Family

OTHERWISE = {"exclude_outbound_ports": "[9999]"}
PAUSE = 0.001  # seconds between two datagrams


def at_work(scene: Scene) -> list[str]:
    """The programs of iptables that run in the pod."""
    names = []
    for pid in scene.pod.processes():
        with contextlib.suppress(FileNotFoundError):
            names.append(Path(f"/proc/{pid}/comm").read_text())
    return [name for name in names if "tables" in name]


@pytest.mark.parametrize("name", ["istio-native", "cilium-legacy"])
def test_what_is_refused_or_only_tried_changes_nothing(world: World, tmp_path: Path, name: str) -> None:
    with Scene(world, AGENTS[name], tmp_path, streams=False, settings=OTHERWISE) as scene:
        for code, arguments in ((1, ()), (0, ("--dry-run", "--accept-differences"))):
            tried = scene.migration(*arguments)
            assert tried.code == code, tried.err + tried.out
            assert "9999" in tried.out, tried.out
            assert not steps(tried)
            scene.is_as_before()
            assert not list(scene.migration.directory.glob("migrations/*"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["cilium-legacy", "cilium-nft"])
def test_rules_of_kube_proxy_docker_and_a_firewall_stay_to_the_byte(world: World, tmp_path: Path, name: str) -> None:
    with Scene(world, AGENTS[name], tmp_path, streams=False, few=False) as scene:
        scene.migrate("--accept-differences")  # what kube-proxy translated first, Weir captures first
        scene.back()


@pytest.mark.parametrize("name", ["cilium-legacy", "cilium-nft"])
def test_a_rule_of_others_counts_each_packet_meanwhile(world: World, tmp_path: Path, name: str) -> None:
    with Scene(world, AGENTS[name], tmp_path, streams=False) as scene, UdpEchoServer(scene.pod, COUNTED_PORT):
        ended = threading.Event()

        def send() -> int:
            sent = 0
            while not ended.is_set():
                assert udp_ask(world.pods[1], (scene.pod.v4, COUNTED_PORT), b"x") == b"x"
                sent += 1
                time.sleep(PAUSE)
            return sent

        with ThreadPoolExecutor(1) as thread:
            sending = thread.submit(send)
            try:
                assert scene.migration().code == 0
                assert scene.migration("--back").code == 0
            finally:
                ended.set()
            sent = sending.result()  # before the rule is read, or the last one is under way
            assert counted(scene.pod, scene.flavour, Family.IPV4) == sent > 50


@pytest.mark.timeout(240)
def test_a_held_lock_delays_the_legacy_part_and_is_told_of(world: World, tmp_path: Path) -> None:
    with Scene(world, AGENTS["istio-legacy"], tmp_path) as scene:
        with held(lock_file(tmp_path)) as holder, scene.load() as running:

            def said(line: str) -> None:
                running.note(line)
                if line.startswith("waiting:"):
                    told.append(line)
                    assert "weir-pod" in rules(scene.pod).texts["nft"]  # new connections are captured twofold
                    running.more()
                    holder.kill()

            told: list[str] = []
            scene.migrate(said=said)
            assert len(told) == 1
            assert "xtables lock" in told[0]
            assert str(holder.pid) in told[0]
        scene.finish()


@pytest.mark.parametrize("name", ["cilium-nft"])
def test_a_held_lock_is_no_matter_where_there_are_no_legacy_rules(world: World, tmp_path: Path, name: str) -> None:
    with Scene(world, AGENTS[name], tmp_path, streams=False) as scene, held(lock_file(tmp_path)):
        for direction in (scene.migrate, scene.back):
            assert "waiting" not in direction().err


@pytest.mark.timeout(240)
def test_what_a_killed_migration_had_started_does_not_come_after_the_return(world: World, tmp_path: Path) -> None:
    with Scene(world, AGENTS["istio-legacy"], tmp_path) as scene:
        with scene.load() as running, held(lock_file(tmp_path)) as holder:
            scene.migration(kill_when=lambda line: line.startswith("waiting:"), said=running.note)
            running.note("going back")
            with ThreadPoolExecutor(1) as thread:
                going = thread.submit(scene.migration, "--back", said=running.note)
                time.sleep(0.5)  # whoever waits for the lock may get it first
                holder.kill()
                done = going.result()
            assert done.code == 0, done.err + done.out
            eventually(lambda: not at_work(scene), "what was started has ended", 60)
            running.more()
            scene.back(said=running.note)
        scene.finish()
