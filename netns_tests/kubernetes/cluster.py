"""A cluster of two nodes: a control plane in the test's own network namespace, and each node in namespaces of its own.

The test's process has to be in a network namespace made for it (`./dev test cluster` does that). All ends with it, even
when it is killed; a killed run's folders and cgroups are swept by the next one.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from netns_tests.kubernetes import node_parts
from netns_tests.kubernetes.control_plane import ADDRESS, ControlPlane
from netns_tests.kubernetes.machine import hierarchies
from netns_tests.kubernetes.programs import program
from netns_tests.patience import slow
from netns_tests.world import eventually

__all__ = ["PROGRAMS", "Cluster", "Machine"]

PROGRAMS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
    "helm",
)
_PODS = ("10.244.0.0/16", "fd00:10:244::/48")
_PREFIX = "weir-node-"
_DYING = ("setpriv", "--pdeathsig", "KILL", "--")  # when the test's process does, however that happens


@dataclass(frozen=True, slots=True)
class Machine:
    """A node that runs: its name, its number from 1, and its first process as it is seen here."""

    name: str
    number: int
    pid: int

    @property
    def addresses(self) -> tuple[str, str]:
        """The node's own."""
        return f"10.99.0.{self.number + 1}", f"fd99::{self.number + 1}"

    @property
    def pods(self) -> tuple[str, str]:
        """The networks of its pods."""
        return f"10.244.{self.number}.0/24", f"fd00:10:244:{self.number}::/64"

    def run(self, *argv: str, check: bool = True, feed: Path | None = None) -> str:
        """Run a program on the node; return what it prints."""
        path = f"{node_parts.unpacked()}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        entered = ("nsenter", f"--target={self.pid}", "--all", "--wdns=/", "--", "env", f"PATH={path}", *argv)
        with feed.open("rb") if feed else contextlib.nullcontext(subprocess.DEVNULL) as given:
            done = subprocess.run(entered, stdin=given, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: Path, text: str) -> None:
        """Have a file on the node, whole from the start."""
        with tempfile.NamedTemporaryFile("w") as told:
            told.write(text)
            told.flush()
            half = path.with_name(f".{path.name}")
            self.run(
                "sh",
                "-c",
                'mkdir -p "$(dirname "$1")"; cat > "$1"; mv "$1" "$2"',
                "sh",
                str(half),
                str(path),
                feed=Path(told.name),
            )

    def load(self, archive: Path) -> None:
        """Have an image on the node."""
        self.run("ctr", "-n", "k8s.io", "image", "import", "-", feed=archive)


class Cluster:
    """Use it in a `with` block: nodes are Ready in it, and nothing is left after it."""

    def __init__(self, *, nodes: int = 2) -> None:
        routes = Path("/proc/self/net/route").read_text().splitlines()[1:]
        assert not routes, "this network is in use: run it by ./dev test cluster"
        self.api = ControlPlane()
        self.nodes: list[Machine] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._wanted = nodes
        self._cgroup = f"{_PREFIX}{os.getpid()}"

    def __enter__(self) -> Self:
        _sweep()
        try:
            self._network()
            self.api.__enter__()
            for number in range(1, self._wanted + 1):
                self._start(number)
            eventually(self._are_ready, "all nodes are Ready", slow(90.0))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._processes:
            each.kill()
            each.wait()
        self.api.__exit__()
        _ended(self._cgroup)
        _ip("link", "delete", "br0", check=False)

    def ready(self) -> list[str]:
        """Return the names of the nodes that are Ready, sorted."""
        found = self.api.ask("GET", "/api/v1/nodes")["items"]
        return sorted(each["metadata"]["name"] for each in found if _is(each, "Ready"))

    def _are_ready(self) -> bool:
        for process, node in zip(self._processes, self.nodes, strict=True):
            log = self.api.directory / node.name / "machine.log"
            assert process.poll() is None, f"{node.name} has ended: {log.read_text()[-2000:]}"
        return self.ready() == [each.name for each in self.nodes]

    def _network(self) -> None:
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "br0", "type", "bridge")
        _ip("address", "add", f"{ADDRESS}/24", "dev", "br0")
        _ip("address", "add", "fd99::1/64", "dev", "br0", "nodad")
        _ip("link", "set", "br0", "up")
        _forward("sysctl")

    def _start(self, number: int) -> None:
        name = f"node-{'abcdefgh'[number - 1]}"
        state = self.api.directory / name
        state.mkdir()
        settings, log = state / "settings.json", state / "machine.log"
        planned = Machine(name, number, 0)
        certificate, key = self.api.server(name, *planned.addresses)
        told: dict[str, Any] = {
            "name": name,
            "cgroup": f"{self._cgroup}-{name}",
            "state": str(state),
            "shown": [str(each) for each in (self.api.directory, node_parts.folder(), program("kubelet").parent)],
            "unpacked": str(node_parts.unpacked()),
            "images": [str(each) for each in (node_parts.pause(), node_parts.busybox())],
            "programs": {each: str(program(each)) for each in ("kubelet", "kube-proxy")},
            "api": ADDRESS,
            "port": self.api.port,
            "addresses": planned.addresses,
            "pods": planned.pods,
            "cluster": _PODS,
            "certificate": str(certificate),
            "key": str(key),
            "authority": str(self.api.authority),
            "kubeconfig": str(self.api.user(name, f"/O=system:nodes/CN=system:node:{name}")),
            "proxy_kubeconfig": str(self.api.user(f"{name}-kube-proxy", "/CN=system:kube-proxy")),
        }
        settings.write_text(json.dumps(told))
        with log.open("wb") as written:
            process = subprocess.Popen(
                [
                    *_DYING,
                    sys.executable,
                    "-m",
                    "netns_tests.kubernetes.machine",
                    settings,
                ],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        self._processes.append(process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        comm = Path(f"/proc/{process.pid}/comm")

        def first() -> list[str]:
            assert process.poll() is None, log.read_text()
            return children.read_text().split() if comm.read_text() == "unshare\n" else []

        eventually(first, f"{name} has a first process", slow(20.0))
        machine = Machine(name, number, int(first()[0]))
        self._connect(machine)
        self.nodes.append(machine)

    def _connect(self, machine: Machine) -> None:
        """Give a node its cable, and routes to the pods of the others, which get routes to its own."""
        there = ("nsenter", f"--target={machine.pid}", "--net")
        _ip("link", "add", f"v{machine.number}", "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
        _ip("link", "set", f"v{machine.number}", "master", "br0", "up")
        _forward(*there, "sysctl")
        four, six = machine.addresses
        _ip("link", "set", "lo", "up", where=there)
        _ip("address", "add", f"{four}/24", "dev", "eth0", where=there)
        _ip("address", "add", f"{six}/64", "dev", "eth0", "nodad", where=there)
        _ip("link", "set", "eth0", "up", where=there)
        _ip("route", "add", "default", "via", ADDRESS, where=there)
        _ip("-6", "route", "add", "default", "via", "fd99::1", where=there)
        for network, address in zip(machine.pods, machine.addresses, strict=True):
            _ip("route", "add", network, "via", address)
        for other in self.nodes:
            beyond = ("nsenter", f"--target={other.pid}", "--net")
            for network, address in zip(machine.pods, machine.addresses, strict=True):
                _ip("route", "add", network, "via", address, where=beyond)
            for network, address in zip(other.pods, other.addresses, strict=True):
                _ip("route", "add", network, "via", address, where=there)


def _is(found: Any, condition: str) -> bool:
    conditions = found["status"].get("conditions", [])
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)


def _ip(*arguments: str, where: tuple[str, ...] = (), check: bool = True) -> None:
    subprocess.run([*where, "ip", *arguments], check=check, capture_output=not check)


def _forward(*sysctl: str) -> None:
    accept = [f"net.ipv6.conf.{each}.accept_dad=0" for each in ("all", "default")]
    forward = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    subprocess.run([*sysctl, "--quiet", "--write", *forward, *accept], check=True)


def _ended(prefix: str, of: Callable[[str], bool] = lambda name: True) -> None:
    """Kill what is left in cgroups of a prefix, and take them away."""
    for own in hierarchies().values():
        for top in [each for each in own.glob(f"{prefix}*") if of(each.name)]:
            for listed in top.rglob("cgroup.procs"):
                for pid in listed.read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            eventually(lambda top=top: _removed(top), f"{top} is gone", slow(20.0))  # type: ignore[misc]


def _removed(top: Path) -> bool:
    for each in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            each.rmdir()
    with contextlib.suppress(OSError):
        top.rmdir()
    return not top.exists()


def _sweep() -> None:
    """Take away the cgroups of runs that were killed."""
    _ended(_PREFIX, lambda name: not Path("/proc", name.removeprefix(_PREFIX).partition("-")[0]).exists())
