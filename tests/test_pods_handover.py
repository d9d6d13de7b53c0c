"""The proxies' socket outlives the agent where somebody keeps it, and is made again where nobody does."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.mesh.listener import Listener, Place, look
from agent.pods.handover import keep
from tests.packages import ROOT

# One life of an agent: it has the socket, says so, and answers each proxy with its own number.
LIFE = """
import sys
from pathlib import Path
from agent.mesh.listener import Listener
from agent.pods.handover import keep
path = Path(sys.argv[1])
listener = Listener.inherited(path) or Listener.at(path)
keep(listener)
listener.socket.setblocking(True)
print("listening", flush=True)
while True:
    proxy, _ = listener.socket.accept()
    if not proxy.recv(100):
        break
    proxy.send(sys.argv[2].encode())
listener.close()
"""


class Supervisor:
    """As systemd is: it keeps the descriptors that it is sent, and hands them to the next start."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.zds = folder / "run" / "ztunnel.sock"
        self.kept: dict[str, int] = {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(30)
        self._lives: list[subprocess.Popen[str]] = []

    def hear(self) -> None:
        """Take one message."""
        data, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 4)
        said = dict(line.split("=", 1) for line in data.decode().split("\n"))
        if "FDSTOREREMOVE" in said and said["FDNAME"] in self.kept:
            os.close(self.kept.pop(said["FDNAME"]))
        if "FDSTORE" in said:
            (self.kept[said["FDNAME"]],) = descriptors

    def start(self, number: str, *, keeps: bool = True) -> subprocess.Popen[str]:
        """Start an agent with what is kept (sd_listen_fds(3))."""
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        if keeps:
            environment |= {"NOTIFY_SOCKET": str(self.path)}
        (descriptor,) = self.kept.values() or (-1,)
        handed = f'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=zds exec "$@" 3<&{descriptor}'
        shell = ["bash", "-c", handed if descriptor >= 0 else 'exec "$@"', "bash"]
        life = subprocess.Popen(
            [*shell, sys.executable, "-c", LIFE, str(self.zds), number],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            pass_fds=tuple(self.kept.values()),
        )
        self._lives.append(life)
        assert life.stdout is not None
        assert life.stdout.readline() == "listening\n"
        if keeps:
            self.hear()
            self.hear()
        return life

    def proxy(self) -> socket.socket:
        """Return a connection to whoever listens."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        opened.settimeout(30)
        opened.connect(str(self.zds))
        return opened

    def close(self) -> None:
        for life in self._lives:
            life.kill()
            life.wait()
            if life.stdout is not None:
                life.stdout.close()
        for descriptor in self.kept.values():
            os.close(descriptor)
        self._socket.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_proxy_that_connects_between_two_lives_just_waits(supervisor: Supervisor, number: signal.Signals) -> None:
    first = supervisor.start("1")
    with supervisor.proxy() as proxy:
        proxy.send(b"hello")
        assert proxy.recv(100) == b"1"
    for life in ("2", "3"):
        first.send_signal(number)
        first.wait()
        with supervisor.proxy() as proxy:
            proxy.send(b"hello")
            first = supervisor.start(life)
            assert proxy.recv(100) == life.encode()
        assert list(supervisor.kept) == ["zds"]


def test_where_nobody_keeps_it_the_socket_is_made_again(supervisor: Supervisor) -> None:
    supervisor.start("1", keeps=False).kill()
    life = supervisor.start("2", keeps=False)
    with supervisor.proxy() as proxy:
        proxy.send(b"hello")
        assert proxy.recv(100) == b"2"
    assert supervisor.kept == {}
    with supervisor.proxy():
        pass  # which ends the agent
    life.wait()
    assert not supervisor.zds.exists()


def test_a_socket_that_is_kept_has_its_path_when_the_agent_has_ended(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener.at(supervisor.zds)
    assert not keep(listener), "nobody is there to keep it"
    monkeypatch.setenv("NOTIFY_SOCKET", str(supervisor.path))
    assert keep(listener)
    supervisor.hear()
    supervisor.hear()
    listener.close()
    assert look(supervisor.zds) is Place.TAKEN, "by the supervisor: a proxy waits there"


def test_who_has_gone_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    listener = Listener.at(tmp_path / "z.sock")
    assert not keep(listener)
    listener.close()
    assert not (tmp_path / "z.sock").exists()
