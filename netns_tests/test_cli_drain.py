"""Releases that drain: all targets begin at once, beside a daemon too; Ctrl-C ends only the command."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from netns_tests.daemon import CAPTURE, Daemon, is_clean, rules, targets
from netns_tests.enrolling import alive, slow
from netns_tests.proxy import Proxy
from netns_tests.stream import Stream
from netns_tests.world import Host, World, eventually

MANY = 6  # more than a command has workers


def is_captured(pod: Host) -> bool:
    return "nat-pre" in rules(pod)


@contextmanager
def streaming(world: World, daemon: Daemon, here: list[str]) -> Iterator[list[Stream]]:
    """Capture all pods, those of the daemon by it and the others by a command, each with a captured stream."""
    with ExitStack() as stack:
        for pod in world.pods:
            stack.enter_context(Proxy(pod))
        daemon.start()
        assert daemon.weir("apply", *here).code == 0
        streams = [stack.enter_context(Stream(pod, world.outside, (world.outside.v4, 0))) for pod in world.pods]
        assert all(each.captured for each in streams)
        yield streams


def test_all_targets_are_direct_at_once_and_ctrl_c_ends_only_the_command(tmp_path: Path) -> None:
    with World(pods=MANY) as world, Daemon(tmp_path, targets(world.pods[:1])) as daemon:
        here = [word for pod in world.pods for word in ("--netns", pod.name)]
        with streaming(world, daemon, here) as streams:
            with daemon.weir.started("remove", *here, "--drain", "3600") as removing:
                eventually(lambda: not any(map(is_captured, world.pods)), "no pod's new connection is", slow(10))
                assert alive(streams) == ["alive"] * MANY
                assert removing.poll() is None
                removing.send_signal(signal.SIGINT)
                out, err = removing.communicate(timeout=slow(2))
            assert (removing.returncode, out) == (130, "")
            assert err == "weir: interrupted: the drain goes on: the next weir command or the daemon finishes it\n"
            assert alive(streams) == ["alive"] * MANY
            assert not any(map(is_clean, world.pods))

            # The next one goes on, and reports each target as its stream ends.
            with daemon.weir.started("remove", *here, "--drain", "3600", "--output", "json") as removing:
                for each in streams:
                    assert removing.poll() is None
                    each.finish()
                out, _ = removing.communicate(timeout=slow(20))
            assert removing.returncode == 0
            assert [each["state"] for each in json.loads(out)["targets"]] == ["removed"] * MANY
            assert all(map(is_clean, world.pods))


def test_a_target_that_leaves_the_daemons_file_stops_no_other_one(tmp_path: Path, world: World) -> None:
    one, other = world.pods
    here = ["--netns", one.name, "--netns", other.name]
    with (
        Daemon(tmp_path, targets(world.pods, CAPTURE), "--drain", "3600") as daemon,
        streaming(world, daemon, here) as streams,
    ):
        daemon.rewrite(targets([one]))
        daemon.eventually(lambda: daemon.state("t1") == "draining", "it drains")
        applied = daemon.weir("apply", *here)
        assert applied.code == 2
        assert applied.out.startswith("unchanged  t0 ")
        assert applied.err.startswith(f"failed     t1 (netns {other.name}): the daemon is releasing it")
        assert f"`weir wait --for absent --netns {other.name}`" in applied.err
        assert alive(streams) == ["alive"] * 2
        removed = daemon.weir("remove", *here)
        assert (removed.code, removed.err) == (0, "")
        assert [line.split()[:2] for line in removed.out.splitlines()] == [["removed", "t0"], ["removed", "t1"]]
        assert is_clean(one)
        assert is_clean(other)


def test_a_daemon_that_stops_is_told_of_its_targets_alone(tmp_path: Path, world: World) -> None:
    one, other = world.pods
    here = ["--netns", one.name, "--netns", other.name]
    with Daemon(tmp_path, targets([one])) as daemon, streaming(world, daemon, here) as streams:
        with daemon.weir.started("remove", *here, "--drain", "3600", "--output", "json") as removing:
            daemon.eventually(lambda: not is_captured(one) and not is_captured(other), "both drain")
            assert daemon.end() == 0
            assert removing.poll() is None
            streams[1].finish()
            out, err = removing.communicate(timeout=slow(20))
        first, second = json.loads(out)["targets"]
        assert (removing.returncode, err) == (2, "")
        assert (first["state"], second["state"]) == ("failed", "removed")
        assert "stopping" in first["reason"]
        assert streams[0].outcome() == "alive"


def test_a_hint_beside_a_daemon_is_one_that_it_takes(tmp_path: Path, world: World) -> None:
    pod = world.pods[0]
    with Daemon(tmp_path, targets([pod])) as daemon, Proxy(pod):
        daemon.start()
        shown = daemon.weir("diff", "--netns", pod.name, "--set", "outbound_port=15002")
        assert shown.code == 1
        last = shown.out.splitlines()[-1]
        assert last == f"the daemon holds t0, and takes its settings from its file: change {daemon.file}"
