"""The real `weir` command, run as a user would type it, in a directory of the demo's own."""

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netns_tests.world import eventually

__all__ = ["ENDING", "WEIR", "Daemon", "Said", "Weir", "own_directory"]

WEIR = Path(sys.executable).parent / "weir"
FILE = "weir.toml"
PREFIX = "weir-demo-"
LOCK = "demo.lock"
# Whatever is started dies with the demo, also when that is killed with SIGKILL.
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
SECONDS_AT_MOST = 60.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a command said."""

    typed: str
    code: int
    output: str

    @property
    def targets(self) -> list[dict[str, Any]]:
        """Return the targets of a JSON answer."""
        found: list[dict[str, Any]] = json.loads(self.output)["targets"]
        return found


class Daemon:
    """`weir daemon` in the background, with its endpoints on a unix socket."""

    def __init__(self, process: subprocess.Popen[str], endpoints: Path, log: Path) -> None:
        """Take what is running."""
        self.process = process
        self._endpoints = endpoints
        self._log = log

    @property
    def log(self) -> str:
        """Return what it has written."""
        return self._log.read_text()

    def ready(self) -> bool:
        """Say if it has looked at every target."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended with exit code {self.process.returncode}:\n{self.log}")
        with contextlib.suppress(OSError):
            return self.get("/readyz")[0] == 200
        return False

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text of one of its endpoints."""
        connection = http.client.HTTPConnection("localhost", timeout=5.0)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.settimeout(5.0)
            connection.sock.connect(str(self._endpoints))
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def rule_packets(self, target: str) -> dict[str, int]:
        """Return the packets that each rule of a target has matched, as /metrics tells."""
        found = {}
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith("weir_rule_packets_total{") and f'target="{target}"' in line:
                found[line.partition('rule="')[2].partition('"')[0]] = int(float(line.rpartition(" ")[2]))
        return found

    def stop(self) -> int:
        """End it as a service manager does, and return its exit code."""
        self.process.terminate()
        return self.process.wait(SECONDS_AT_MOST)

    def kill(self) -> None:
        """End it at once, whatever it is doing; nothing, if it has ended."""
        self.process.kill()
        self.process.wait()


class Weir:
    """Runs the command in a directory, which holds the target file, the run directory and the daemon's sockets."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        """Take the directory; `stack` ends whatever still runs when the demo does."""
        self.directory = directory
        self.file = directory / FILE
        self._stack = stack
        self._environment = os.environ | {"WEIR_RUN_DIR": str(directory / "run")}

    def __call__(self, *arguments: str) -> Said:
        """Run the command to its end."""
        return self.finish(self.start(*arguments))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command in the background."""
        with _uninterrupted():
            process = self._popen(arguments, subprocess.PIPE)
            self._stack.callback(_end, process)
        return process

    def finish(self, process: subprocess.Popen[str]) -> Said:
        """Wait for the end of a command and return what it said."""
        output, _ = process.communicate(timeout=SECONDS_AT_MOST)
        assert isinstance(process.args, tuple)
        typed = ("weir", *process.args[len(DIES_WITH_US) + 1 :])
        return Said(typed=" ".join(typed), code=process.returncode, output=output)

    def daemon(self, *arguments: str) -> tuple[str, Daemon]:
        """Start the daemon; return what was typed, and the daemon once it is ready."""
        endpoints, log = self.directory / "endpoints.sock", self.directory / "daemon.log"
        arguments = ("daemon", "--file", FILE, "--listen", f"unix:{endpoints}", *arguments)
        with log.open("w") as output, _uninterrupted():
            daemon = Daemon(self._popen(arguments, output.fileno()), endpoints, log)
            self._stack.callback(daemon.kill)
        eventually(daemon.ready, "the daemon is ready", SECONDS_AT_MOST / 2)
        return f"weir {' '.join(arguments)} &", daemon

    def _popen(self, arguments: tuple[str, ...], output: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (*DIES_WITH_US, str(WEIR), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env=self._environment,
        )


@contextlib.contextmanager
def own_directory() -> Iterator[Path]:
    """Make a directory for one run of the demo, after deleting those of runs that were killed."""
    _sweep(Path(tempfile.gettempdir()))
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (directory / LOCK).open("w") as lock:  # held for as long as we live: a dead run's is free
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
    finally:
        shutil.rmtree(directory)


def _sweep(parent: Path) -> None:
    for directory in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (directory / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if directory.stat().st_uid == os.geteuid():
                shutil.rmtree(directory)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off the signals that end the demo: one that came between fork and our noting it would leave a child."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        if came:
            signal.raise_signal(came[0])


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
