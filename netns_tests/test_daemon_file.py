"""The target file changes under a running daemon, or while none runs; and drains outlive whoever began them."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from netns_tests.daemon import CAPTURE, Daemon, is_clean, rules, targets
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.stream import Stream
from netns_tests.world import Host, World


@pytest.fixture
def two() -> Iterator[tuple[Namespace, Namespace]]:
    with Namespace.create("one") as one, Namespace.create("two") as two:
        yield one, two


def captured(pod: Namespace) -> bool:
    return "nat-out" in rules(pod)


def generation(pod: Namespace) -> int:
    """Return the number of a namespace's ruleset: any change by anybody makes it another one."""

    def ask() -> int:
        handle = Handle(Netns(pod.name))
        try:
            return handle.generation()
        finally:
            handle.close()

    return pod.run(ask)


def replace(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


def like_an_editor(path: Path, text: str) -> None:
    path.replace(path.with_suffix(".toml~"))
    with path.open("w") as file:
        for part in (text[:20], text[20:]):
            file.write(part)
            file.flush()
            os.fsync(file.fileno())


def exchange_link(path: Path, text: str) -> None:
    """Change a file as Kubernetes does in a volume: it leads through a link to a folder, and that link is exchanged."""
    folder = path.with_name(f"version-{len(list(path.parent.iterdir()))}")
    folder.mkdir()
    (folder / path.name).write_text(text)
    path.with_name("..new").symlink_to(folder.name)
    path.with_name("..new").replace(path.with_name("..data"))
    if not path.is_symlink():
        path.unlink()
        path.symlink_to(f"..data/{path.name}")


def test_every_way_to_change_a_file_is_noticed(tmp_path: Path, two: tuple[Namespace, Namespace]) -> None:
    one, other = two
    with Daemon(tmp_path, targets([one])) as daemon:
        daemon.start()
        for change in (Path.write_text, replace, like_an_editor, exchange_link, exchange_link):
            for pods in ([one, other], [one], [other], [one]):
                change(daemon.file, targets([(pod.name, pod.name) for pod in pods]))
                daemon.eventually(
                    lambda: {pod for pod in two if captured(pod)} == set(pods),  # noqa: B023 (called here)
                    f"{change.__name__}: {pods} are captured, and nothing else",
                )
        daemon.eventually(lambda: daemon.states() == {(one.name, one.name): "degraded"}, "one is left")
        assert is_clean(other)


def test_sighup_and_the_socket_read_the_file_too(tmp_path: Path, two: tuple[Namespace, Namespace]) -> None:
    one, other = two
    with Daemon(tmp_path, targets([one])) as daemon:
        daemon.start()
        # Written through another name of the same file, which nobody watches.
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "hard-link").hardlink_to(daemon.file)
        (elsewhere / "hard-link").write_text(targets([one, other]))
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.eventually(lambda: captured(other), "read on SIGHUP")


def test_a_bad_file_changes_nothing_and_is_told_everywhere(tmp_path: Path, two: tuple[Namespace, Namespace]) -> None:
    one, other = two
    with Daemon(tmp_path, targets([one])) as daemon:
        daemon.start()
        before = rules(one)
        assert daemon.metrics()["weir_file_good", ()] == 1
        good = targets([one, other])
        for bad, line, said in (
            (good + "dns = 3\n", len(good.splitlines()) + 1, "dns = 3"),
            (good.replace("[[target]]", "[[target", 1), 5, "']]'"),
            (good.replace("dns = false", "dnss = false"), 3, "did you mean"),
        ):
            daemon.rewrite(bad)
            daemon.eventually(lambda: said in str(daemon.client.status()["file_error"]), said)  # noqa: B023
            where = f"{daemon.file}:{line}: "
            assert where in str(daemon.client.status()["file_error"])
            assert where in daemon.log
            assert where in daemon.weir("status", "--netns", one.name, "--file", os.devnull).out.replace("\n", "")
            assert daemon.metrics()["weir_file_good", ()] == 0
            assert rules(one) == before
            assert is_clean(other)
        daemon.file.unlink()
        daemon.eventually(lambda: "no such file" in str(daemon.client.status()["file_error"]), "the file is gone")
        assert rules(one) == before
        daemon.rewrite(good)
        daemon.eventually(lambda: captured(other), "a good file is taken")
        assert daemon.client.status()["file_error"] == ""
        assert daemon.metrics()["weir_file_good", ()] == 1


def test_a_restart_touches_nothing(tmp_path: Path, two: tuple[Namespace, Namespace]) -> None:
    """Without ownership: taking that is a change of the table, of nothing but its owner."""
    one, other = two
    with Daemon(tmp_path, targets(two), "--no-own") as daemon:
        daemon.start()
        daemon.eventually(lambda: all(map(captured, two)), "both are captured")
        before = [(rules(pod), generation(pod)) for pod in two]
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            daemon.end(number)
            daemon.start()
            assert [(rules(pod), generation(pod)) for pod in two] == before
        # What it kept and what isn't in the file any more goes; what a command has put somewhere stays.
        daemon.end()
        daemon.rewrite(targets([two[0]]))
        third = Namespace.create("three")
        with third:
            applied = daemon.weir("apply", "--netns", third.name, "--set", 'when_proxy_absent="capture"')
            assert captured(third), applied
            daemon.start()
            daemon.eventually(lambda: is_clean(other), "it left the file while nobody looked")
            assert captured(third)
            assert (rules(one), generation(one)) == before[0]


def test_a_removal_lasts_until_apply(tmp_path: Path, two: tuple[Namespace, Namespace]) -> None:
    one, other = two
    with Daemon(tmp_path, targets(two)) as daemon:
        daemon.start()
        assert daemon.weir("remove", "t0").code == 0
        assert is_clean(one)
        for number in (signal.SIGTERM, signal.SIGKILL):
            daemon.end(number)
            daemon.start()
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.eventually(lambda: daemon.log.count("keeping 2") >= 2, "it was read again")
            assert is_clean(one)
            assert captured(other)
        daemon.weir("apply", "t0")
        assert captured(one)
        daemon.end()
        daemon.start()
        assert captured(one)


def test_a_released_target_is_the_daemons_by_any_name(tmp_path: Path, two: tuple[Namespace, Namespace]) -> None:
    """Or it would take away again what a command has put there."""
    one, _ = two
    with Daemon(tmp_path, targets(two)) as daemon:
        daemon.start()
        assert daemon.weir("remove", "t0").code == 0
        assert is_clean(one)
        assert daemon.weir("apply", "--netns", str(one.path)).code in (0, 1)  # nothing listens, so it is degraded
        assert captured(one)
        daemon.eventually(lambda: daemon.state("t0") in ("applied", "unchanged", "degraded"), "the daemon keeps it")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.eventually(lambda: daemon.log.count("keeping 2") >= 2, "it was read again")
        assert captured(one)


def drained(daemon: Daemon, pod: Host, stream: Stream, left: int) -> None:
    """A captured stream goes on to its end, then nothing is left."""
    assert stream.outcome() == "alive"
    assert captured(pod) or "mangle-out" in rules(pod)
    (record,) = (json.loads(each.read_text()) for each in (daemon.directory / "namespaces").glob("*.json"))
    assert record["drain"] == left
    stream.finish()
    daemon.eventually(lambda: is_clean(pod), "nothing is left")
    daemon.eventually(lambda: not daemon.states(), "nothing is kept")


def test_a_target_that_leaves_the_file_drains(tmp_path: Path, world: World) -> None:
    pod = world.pods[0]
    with Daemon(tmp_path, targets([pod]), "--drain", "3600") as daemon, Proxy(pod):
        daemon.start()
        with Stream(pod, world.outside, (world.outside.v4, 0)) as stream:
            assert stream.captured
            daemon.rewrite("")
            daemon.eventually(lambda: daemon.state("t0") == "draining", "it drains")
            # Killed meanwhile: the next one goes on with what the first one began.
            daemon.end(signal.SIGKILL)
            daemon.start()
            daemon.eventually(lambda: daemon.state("t0") == "draining", "it goes on")
            drained(daemon, pod, stream, 3600)


def test_a_killed_commands_drain_is_taken_up(tmp_path: Path, world: World) -> None:
    pod = world.pods[0]
    with Daemon(tmp_path, "", "--drain", "0") as daemon, Proxy(pod):
        assert daemon.weir("apply", "--netns", pod.name, "--file", os.devnull).code == 0
        with Stream(pod, world.outside, (world.outside.v6, 0)) as stream:
            assert stream.captured
            with daemon.weir.started("remove", "--netns", pod.name, "--file", os.devnull, "--drain", "1800") as command:
                daemon.eventually(lambda: "nat-pre" not in rules(pod), "it has begun")
                assert command.poll() is None
            daemon.start()
            daemon.eventually(lambda: daemon.state(pod.name) == "draining", "the daemon took it up")
            drained(daemon, pod, stream, 1800)


def test_a_stopped_daemon_tells_who_waits(tmp_path: Path, world: World) -> None:
    pod = world.pods[0]
    with Daemon(tmp_path, targets([pod], CAPTURE)) as daemon, Proxy(pod):
        daemon.start()
        with Stream(pod, world.outside, (world.outside.v4, 0)) as stream:
            assert stream.captured
            with daemon.weir.started("remove", "t0", "--drain", "3600") as command:
                daemon.eventually(lambda: daemon.state("t0") == "draining", "it drains")
                assert daemon.end() == 0
                _, said = command.communicate(timeout=10)
                assert command.returncode == 2
                assert "stopping" in said
                assert "Traceback" not in said + daemon.log
            assert stream.outcome() == "alive"
