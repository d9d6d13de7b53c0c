"""`weir daemon` as a process of its own, with a run directory, a file and an HTTP socket that nobody else has."""

import http.client
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from agent.local_api import Client
from netns_tests.command import Command
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.syscalls import configure, pin_new_namespace, unpin
from netns_tests.world import eventually

__all__ = ["Daemon", "appear", "is_clean", "links", "listening", "rules", "targets", "tie", "unix_request", "vanish"]

SECONDS = slow(30.0)
# Captured at once, whoever listens; without DNS two listeners make it whole.
CAPTURE = 'when_proxy_absent = "capture"\ndns = false'
PROXY = (15001, 15006)


def targets(namespaces: Iterable[Namespace | tuple[str, str]], defaults: str = CAPTURE) -> str:
    """Return a file with a target for each namespace (or name and netns), called t0, t1 and so on."""
    lines = [f"[defaults]\n{defaults}\n"]
    for number, each in enumerate(namespaces):
        name, netns = each if isinstance(each, tuple) else (f"t{number}", each.name)
        lines.append(f'[[target]]\nname = "{name}"\nnetns = "{netns}"\n')
    return "\n".join(lines)


def listening(namespace: Namespace, *ports: int) -> list[socket.socket]:
    """Return sockets that listen in a namespace for both families, as a proxy does. They pin it until closed."""
    opened = []
    for port in ports:
        listener = namespace.socket(socket.AF_INET6)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", port))
        listener.listen()
        opened.append(listener)
    return opened


def vanish(namespace: Namespace) -> None:
    """Take a namespace's name away, as `ip netns del` does."""
    unpin(namespace.path)


def appear(namespace: Namespace) -> None:
    """Make another namespace under the name of one that vanished."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(pin_new_namespace, namespace.path).result()
    namespace.run(configure)


def tie(peer: Namespace, namespaces: Sequence[Namespace]) -> None:
    """Connect namespaces with a peer. The peer's end of a link, `l0` and so on, goes when the namespace really goes."""
    peer.ip(*(f"link add l{n} type veth peer name eth0 netns {each.name}" for n, each in enumerate(namespaces)))


def links(peer: Namespace) -> set[str]:
    """Return the ends of the links that a peer still has."""
    return peer.run(lambda: {name for _, name in socket.if_nameindex() if name.startswith("l")} - {"lo"})


def rules(namespace: Namespace, *, everything: bool = False) -> str:
    """Return Weir's rules and routes (or everybody's) in a namespace as the system's tools print them.

    Without who owns the table: that is no matter of rules, and another one after a restart.
    """
    table = "ruleset" if everything else "table inet weir-pod"
    script = f"nft -s list {table} 2>&1; for f in -4 -6; do ip $f rule; ip $f route show table all proto 119; done"
    said = namespace.command("sh", "-c", script if not everything else script.replace(" proto 119", ""))
    return re.sub(
        r"^(table inet weir-\w+ \{)(?: # progname .*)?\n(?:\tflags .*\n\n?)?", r"\1\n", said, flags=re.MULTILINE
    )


def is_clean(namespace: Namespace) -> bool:
    """Say whether nothing of Weir is in a namespace."""
    found = namespace.command("sh", "-c", "nft list ruleset; ip rule; ip -6 rule; ip route show table all proto 119")
    return not any(word in found for word in ("weir", "119"))


def unix_request(
    path: Path, method: str, where: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Return status and text of an HTTP answer over a unix socket."""
    connection = http.client.HTTPConnection("localhost", timeout=SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(SECONDS)
    try:
        connection.sock.connect(str(path))
        connection.request(method, where, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Daemon:
    """The daemon and what belongs to it. Use it in a `with` block: then it is killed at the end, also with the test."""

    def __init__(
        self,
        directory: Path,
        text: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        """Write the file; nothing runs before `start`, which goes through a command that becomes the daemon."""
        self.directory = directory / "run"
        self.file = directory / "weir.toml"
        self.file.write_text(text)
        self.http = directory / "http.sock"
        self.log_file = directory / "log"
        # The kernel kills it when the test process dies, however that happens.
        prefix = (*through, "setpriv", "--pdeathsig", "KILL")
        self.weir = Command(self.directory, environment=environment)
        self._started = Command(self.directory, prefix=prefix, environment=environment)
        self._arguments = ("daemon", "--file", str(self.file), "--listen", f"unix:{self.http}", *arguments)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> Self:
        """Start it; return when each target was looked at once, or at once."""
        assert self.process is None
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self._started.argv(*self._arguments),
                env=self._started.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if ready:
            self.eventually(lambda: self.get("/readyz")[0] == 200, "the daemon is ready")
        return self

    @property
    def pid(self) -> int:
        """Its process."""
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has logged, in all its lives."""
        return self.log_file.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None

    def rewrite(self, text: str) -> None:
        """Write another file."""
        self.file.write_text(text)

    def eventually(self, condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
        """Wait until a condition holds; where the daemon doesn't answer yet, it doesn't."""

        def holds() -> bool:
            assert self.process is None or self.process.poll() is None, self.log
            try:
                return bool(condition())
            except (OSError, http.client.HTTPException):
                return False

        try:
            eventually(holds, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-4000:]}") from None

    @property
    def client(self) -> Client:
        """A command's side of its socket."""
        return Client(self.directory / "weir.sock")

    def target(self, name: str) -> dict[str, Any]:
        """Return what it says of a target; nothing where it doesn't know one."""
        known: Any = self.client.status()["targets"]
        return next((each for each in known if each["target"] == name), {})

    def state(self, name: str) -> str:
        """Return how a target stands, in its view; empty where it doesn't know one."""
        return str(self.target(name).get("state", ""))

    def states(self) -> dict[tuple[str, str], str]:
        """Return how all targets stand, in its view, by name and namespace."""
        known: Any = self.client.status()["targets"]
        return {(each["target"], each["netns"]): each["state"] for each in known}

    def get(self, where: str) -> tuple[int, str]:
        """Return status and text of an answer of its HTTP socket."""
        return unix_request(self.http, "GET", where)

    def metrics(self) -> dict[tuple[str, tuple[str, ...]], float]:
        """Return the samples of its metrics, by name and the values of its labels, in the order of their names."""
        status, text = self.get("/metrics")
        assert status == 200
        families = text_string_to_metric_families(text)
        samples = [sample for family in families for sample in family.samples]
        found = {(each.name, tuple(value for _, value in sorted(each.labels.items()))): each.value for each in samples}
        assert len(found) == len(samples), "a series twice"
        return found

    def descriptors(self) -> list[str]:
        """Return what its descriptors lead to, sorted."""
        found = []
        for each in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(os.readlink(each))
            except FileNotFoundError:  # closed in this moment
                pass
        return sorted(found)

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        """Return the seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self.end(signal.SIGKILL)
