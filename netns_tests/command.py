"""The `weir` command as a user starts it: a process, with a run directory of its own."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from netns_tests.patience import slow

__all__ = ["WEIR", "Command", "Done", "Session", "end"]

WEIR = str(Path(sys.executable).with_name("weir"))
SECONDS = slow(60.0)


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, which must be one JSON document."""
        return json.loads(self.out)

    @property
    def target(self) -> Any:
        """The one target of its JSON output."""
        (only,) = self.json["targets"]
        return only


@dataclass(frozen=True, slots=True)
class Command:
    """How to start `weir`: the run directory, what stands before it on the command line, and the environment."""

    directory: Path
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None

    def argv(self, *arguments: str) -> list[str]:
        """Return the whole command line."""
        return [*self.prefix, WEIR, *arguments]

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the process: nobody's colours, no width but the default."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {**kept, "WEIR_RUN_DIR": str(self.directory), "COLUMNS": "100", **(self.environment or {})}

    def __call__(self, *arguments: str, timeout: float = SECONDS) -> Done:
        """Run it to its end."""
        done = subprocess.run(
            self.argv(*arguments),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str, timeout: float = SECONDS) -> Done:
        """Run it to its end, for a program to read."""
        return self(*arguments, "--output", "json", timeout=timeout)

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start it, with its output to be read; at the end of the block it is killed where it still runs."""
        process = subprocess.Popen(
            self.argv(*arguments),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            end(process, signal.SIGKILL)


def end(process: "subprocess.Popen[str]", number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal to a process, or to what it only stands in front of (nsenter), and wait for its end."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in map(int, children or [str(process.pid)]):
            os.kill(pid, number)
    process.communicate()


class Session:
    """The command on a terminal of its own. Use it in a `with` block."""

    def __init__(self, command: Command, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Start it; the terminal is its controlling one, as after a login."""
        self.output = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command.argv(*arguments)],
            env={**command.environ, "TERM": "xterm-256color", **(environment or {})},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)

    def press(self, keys: str) -> None:
        """Type something."""
        os.write(self._master, keys.encode())

    def until(self, text: str, seconds: float = SECONDS) -> str:
        """Read until the terminal has shown a text; return all that it has shown."""
        deadline = time.monotonic() + seconds
        while text not in self.output and self._read(deadline):
            pass
        assert text in self.output, f"{text!r} was not shown, but:\n{self.output}"
        return self.output

    def end(self, seconds: float = SECONDS) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def hang_up(self) -> None:
        """Close the terminal, as a lost login does: the kernel sends SIGHUP."""
        os.close(self._master)
        self._master = -1

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            self.output += os.read(self._master, 65536).decode(errors="replace")
        except OSError:  # EIO: nobody has the other side open any more
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        if self._master >= 0:
            os.close(self._master)
