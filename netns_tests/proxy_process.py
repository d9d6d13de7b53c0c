"""The proxy of `proxy.py` as a process of its own."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from netns_tests.captured import Address, Captured, Log
from netns_tests.cgroup import entering
from netns_tests.namespace import Namespace
from netns_tests.proxy import MARK

__all__ = ["ProxyProcess"]


class ProxyProcess:
    """The proxy as a process of its own, for tests that kill it and for load beside a busy test. Same log."""

    def __init__(
        self,
        namespace: Namespace,
        *,
        mark: int | None = MARK,
        user: int | None = None,
        keep_source: bool = True,
        forward_dns: Address | None = None,
        drain: float = 0.0,
        cgroup: Path | None = None,
    ) -> None:
        """Take the arguments of `Proxy`; `drain` is how long it lets connections end after SIGTERM.

        With a `cgroup` it enters that directory before it does anything, as a service does.
        """
        self.captured = Log()
        self._namespace = namespace
        self._argv = [] if cgroup is None else entering(cgroup)
        self._argv += [sys.executable, "-m", "netns_tests.proxy", "--netns", namespace.name, f"--drain={drain}"]
        self._argv += [f"--mark={'none' if mark is None else hex(mark)}"]
        self._argv += [] if user is None else [f"--user={user}"]
        self._argv += [] if keep_source else ["--no-keep-source"]
        self._argv += [] if forward_dns is None else ["--forward-dns", *map(str, forward_dns)]
        self.process: subprocess.Popen[bytes]
        self._reader: threading.Thread

    def start(self) -> Self:
        """Start it; return when all its ports listen."""
        here = Path(__file__).resolve().parent.parent
        self.process = self._namespace.spawn(self._argv, stdout=subprocess.PIPE, cwd=here)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            self.stop()
            raise RuntimeError(f"the proxy did not start: {' '.join(self._argv)}")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal and wait for its end and the end of its log."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait()
        if self.process.stdout is not None and not self.process.stdout.closed:
            if hasattr(self, "_reader"):
                self._reader.join()
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            fields = json.loads(line)
            fields |= {"client": tuple(fields["client"]), "original": tuple(fields["original"])}
            self.captured.add(Captured(**fields))
