"""The daemon as a service: word to the service manager, metrics and health, and the socket that commands use."""

import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from netns_tests.clients import exchange
from netns_tests.daemon import Daemon, rules, targets, unix_request
from netns_tests.namespace import Namespace
from netns_tests.proxy import Proxy
from netns_tests.servers import EchoServer
from netns_tests.world import World

NOBODY = 65534


@pytest.fixture
def pods() -> Iterator[list[Namespace]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Namespace.create("pod")) for _ in range(20)]


@pytest.fixture
def daemon(tmp_path: Path, pods: list[Namespace]) -> Iterator[Daemon]:
    with Daemon(tmp_path, targets(pods[:1])) as made:
        yield made.start()


class Systemd:
    """A service manager's ear."""

    def __init__(self, path: Path) -> None:
        self.heard: list[tuple[float, dict[str, str]]] = []
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.bind(str(path))
        self.ear.settimeout(20)

    def until(self, field: str) -> dict[str, str]:
        """Return the next message with a field; those before it are kept in `heard`."""
        while True:
            message = dict(line.split("=", 1) for line in self.ear.recv(65536).decode().splitlines())
            self.heard.append((time.clock_gettime(time.CLOCK_MONOTONIC), message))
            if field in message:
                return message

    def count(self, field: str) -> int:
        return sum(field in message for _, message in self.heard)


def test_systemd_hears_everything(tmp_path: Path, pods: list[Namespace]) -> None:
    systemd = Systemd(tmp_path / "notify")
    interval = 0.4
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(int(interval * 1e6))}
    with systemd.ear, Daemon(tmp_path, targets(pods), environment=environment) as daemon:
        daemon.start(ready=False)
        assert systemd.until("READY")["READY"] == "1"
        assert all("nat-out" in rules(pod) for pod in pods), "ready: each target was looked at"
        assert systemd.count("WATCHDOG") == 0
        began, _ = systemd.heard[-1]
        for _ in range(5):
            assert systemd.until("WATCHDOG")["WATCHDOG"] == "1"
        assert systemd.heard[-1][0] - began >= interval  # not more often than asked for, at half of the time
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        os.kill(daemon.pid, signal.SIGHUP)
        reloading = systemd.until("RELOADING")
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert "20 targets" in systemd.until("READY")["STATUS"]
        # After a bad file it is ready too, and says what is wrong.
        daemon.rewrite("x = 1")
        systemd.until("RELOADING")
        assert "x = 1" in systemd.until("READY")["STATUS"]
        assert daemon.end() == 0
        systemd.until("STOPPING")
        assert systemd.count("STOPPING") == 1


def test_ready_is_said_when_each_target_was_looked_at(tmp_path: Path, pods: list[Namespace]) -> None:
    with Daemon(tmp_path, targets(pods)) as daemon:
        daemon.start(ready=False)
        answers: list[tuple[int, str]] = []

        def is_ready() -> bool:
            answers.append(daemon.get("/readyz"))
            return answers[-1][0] == 200

        daemon.eventually(is_ready, "ready")
        assert answers[0] == (503, "not every target has been looked at yet\n")
        assert answers[-1] == (200, "ready\n")
        assert daemon.get("/healthz") == (200, "ok\n")
        assert all(daemon.state(f"t{number}") == "degraded" for number in range(len(pods)))


def test_counters_rise_with_traffic(tmp_path: Path, world: World) -> None:
    pod = world.pods[0]
    with Proxy(pod), EchoServer(world.outside) as server, Daemon(tmp_path, targets([pod])) as daemon:
        daemon.start()
        daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured")

        def counted(name: str) -> float:
            return daemon.metrics().get((name, ("outbound-redirect", "t0")), 0)

        before = counted("weir_rule_packets_total"), counted("weir_rule_bytes_total")
        for address in (world.outside.v4, world.outside.v6) * 5:
            assert not exchange(pod, (address, server.port)).direct
        daemon.eventually(lambda: counted("weir_rule_packets_total") >= before[0] + 10, "ten connections are counted")
        assert counted("weir_rule_bytes_total") >= before[1] + 5 * (60 + 80)
        metrics = daemon.metrics()
        assert metrics["weir_targets", ("unchanged",)] == 1
        assert metrics["weir_target_captured", ("t0",)] == 1
        assert metrics["weir_changes_total", ()] == 1
        assert metrics["weir_pass_seconds_count", ()] >= 2
        assert metrics["process_open_fds", ()] > 5
        # What a newer Prometheus asks for is well formed too.
        wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
        assert unix_request(daemon.http, "GET", "/metrics", headers=wanted)[1].endswith("# EOF\n")
        daemon.rewrite("")
        daemon.eventually(lambda: not daemon.states(), "it is released")
        assert not [name for name, labels in daemon.metrics() if "t0" in labels]


def test_metrics_on_loopback_only(tmp_path: Path, pods: list[Namespace]) -> None:
    with Namespace.create("node") as node:  # whose loopback has no other daemon
        daemon = Daemon(tmp_path, targets(pods[:1]))
        file = str(daemon.file)
        refused = daemon.weir("daemon", "--file", file, "--listen", "0.0.0.0:15042")
        assert (refused.code, "is not a loopback address" in refused.err) == (2, True)
        argv = daemon.weir.argv("daemon", "--file", file, "--listen", "[::1]:15042")
        process = node.spawn(["setpriv", "--pdeathsig", "KILL", *argv], env=daemon.weir.environ)
        try:
            daemon.eventually(daemon.client.is_there, "it listens")
            said = node.command("curl", "-sS", "--retry-connrefused", "--retry", "9", "http://[::1]:15042/healthz")
            assert said == "ok\n"
            second = daemon.weir("daemon", "--file", file, "--listen", "none")
            assert second.code == 2
            assert "another daemon runs already" in second.err
            assert daemon.client.is_there(), "the first one goes on"
        finally:
            process.kill()
            process.wait()


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


def test_the_socket_is_for_its_owner(tmp_path: Path, daemon: Daemon) -> None:
    path = daemon.directory / "weir.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (daemon.directory, tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    with acting_as(NOBODY), pytest.raises(PermissionError):
        unix_request(path, "GET", "/v1/status")
    path.chmod(0o666)  # even then
    with acting_as(NOBODY):
        for method, where in (("GET", "/v1/status"), ("POST", "/v1/remove"), ("GET", "/elsewhere")):
            status, said = unix_request(path, method, where, b'{"targets": ["t0"]}')
            assert (status, "owner" in said) == (403, True)
    assert unix_request(path, "GET", "/v1/status")[0] == 200
    assert daemon.state("t0") == "degraded"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"null",
        b'"targets"',
        b"{}",
        b'{"targets": "t0"}',
        b'{"targets": [3]}',
        b'{"targets": ["t0"], "drain": -1}',
        b'{"targets": ["t0"], "drain": "soon"}',
        b'{"targets": ["t0"], "drain": NaN}',
        b'{"targets": ["t0"], "drain": 1e999}',
        b'{"targets": ["t0"], "drain": true}',
        b'{"targets": {"t0": 1}}',
        b"[" * 100_000,
        b'{"targets": ["' + b"x" * 2_000_000 + b'"]}',
    ],
    ids=lambda body: body[:24].decode(errors="replace"),
)
def test_a_request_that_is_none_is_refused(kept: Daemon, body: bytes) -> None:
    before = kept.target("t0")["state"]
    status, said = unix_request(kept.directory / "weir.sock", "POST", "/v1/remove", body)
    assert status == (413 if len(body) > 1_000_000 else 400)
    assert '"error"' in said
    assert kept.target("t0")["state"] == before


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Give a daemon that lives through a whole module."""
    with (
        Namespace.create("pod") as pod,
        Daemon(tmp_path_factory.mktemp("kept"), targets([pod])) as made,
    ):
        yield made.start()
        assert made.end() == 0
        assert "Traceback" not in made.log


def test_what_is_no_http_is_refused(kept: Daemon) -> None:
    path = kept.directory / "weir.sock"
    for noise in (
        b"\0" * 4096,
        b"hello\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        os.urandom(70_000),
        b"",
        b"GET / HTTP/1.1\r\n",
    ):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.settimeout(5)
            try:
                connection.sendall(noise)
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
            except (BrokenPipeError, ConnectionResetError):
                answer = b""
            assert answer == b"" or b" 400 " in answer.partition(b"\r\n")[0], noise[:20]
    charset = {"Content-Type": "application/json; charset=nonsense"}
    assert unix_request(path, "POST", "/v1/apply", b"{}", charset)[0] == 400
    assert unix_request(path, "GET", "/v1/apply")[0] == 405
    assert unix_request(path, "GET", "/elsewhere")[0] == 404
    unknown = unix_request(path, "POST", "/v1/apply", b'{"targets": ["unknown"]}')
    assert (unknown[0], json.loads(unknown[1])) == (200, {"targets": []})
    assert kept.state("t0") == "degraded"
