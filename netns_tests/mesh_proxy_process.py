"""The proxy of `mesh_proxy.py` as a process that a test speaks to, and the agent's server in a thread beside it."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

from agent.mesh.connection import Patience
from agent.mesh.listener import Listener
from agent.mesh.server import ROOT, Mesh
from agent.mesh.status import MeshState, Refused, Released, Standing, Unanswered
from agent.mesh.wire import Workload
from netns_tests.namespace import Namespace
from netns_tests.patience import slow
from netns_tests.world import eventually

__all__ = ["Agent", "MeshProxy", "descriptor", "workload"]

Event = dict[str, Any]
T = TypeVar("T")
HERE = Path(__file__).resolve().parent.parent
SECONDS = slow(10.0)
# The kernel kills it when the test process dies, however that happens.
WITH_TEST = ("setpriv", "--pdeathsig", "KILL")


def workload(uid: str) -> Workload:
    """Return a pod with names made of its uid."""
    return Workload(uid=uid, namespace="shop", name=f"web-{uid}", service_account="default")


def descriptor(namespace: Namespace | Path) -> Any:
    """Return a namespace (or any file) as an open file."""
    path = namespace if isinstance(namespace, Path) else namespace.path
    return path.open("rb", buffering=0)


class MeshProxy:
    """A ztunnel of our own. Use it in a `with` block: then it is killed at the end."""

    def __init__(self, path: Path, *arguments: str) -> None:
        """Take the socket's path; `arguments` are those of `mesh_proxy.py`."""
        self._argv = [*WITH_TEST, sys.executable, "-m", "netns_tests.mesh_proxy", f"--socket={path}", *arguments]
        self._events: list[Event] = []
        self._unfinished = b""  # line
        self._changed = threading.Condition(threading.RLock())
        self.process: subprocess.Popen[bytes]

    def start(self) -> Self:
        """Start it; it connects as soon as it can."""
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, bufsize=0, cwd=HERE)
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    @property
    def events(self) -> list[Event]:
        """What it has told so far, in order: of what it has answered, all."""
        with self._changed:
            if not self._closed:
                self._take()
            return list(self._events)

    def heard(self, kind: str, uid: str | None = None) -> list[Event]:
        """Return its events of a kind, about a pod where one is given."""
        return [each for each in self.events if each["event"] == kind and uid in (None, each.get("uid"))]

    def uids(self, kind: str) -> list[str]:
        """Return the pods of its events of a kind, sorted."""
        return sorted(each["uid"] for each in self.heard(kind))

    def wait(self, kind: str, uid: str | None = None, *, times: int = 1) -> Event:
        """Return its last event of a kind, as soon as there were so many."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.heard(kind, uid)) >= times, SECONDS):
                raise AssertionError(f"no {kind} {uid or ''} ({times}) within {SECONDS:g} s: {self._events[-20:]}")
        return self.heard(kind, uid)[-1]

    def tell(self, do: str, **fields: object) -> None:
        """Have it carry out a command; return when it has."""
        assert self.process.stdin is not None
        before = len(self.heard("obeyed"))
        self.process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
        self.wait("obeyed", times=before + 1)

    def forget(self) -> None:
        """Forget its events so far."""
        with self._changed:
            self._events.clear()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send it a signal; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; return its exit code."""
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None or not self._closed:
            self.stop(signal.SIGKILL)

    @property
    def _closed(self) -> bool:
        return self.process.stdout is None or self.process.stdout.closed

    def _read(self) -> None:
        assert self.process.stdout is not None
        poll = select.poll()
        poll.register(self.process.stdout, select.POLLIN)
        while self._take():
            poll.poll()

    def _take(self) -> bool:
        """Take what is there to be read; tell whether more may come."""
        assert self.process.stdout is not None
        with self._changed:
            while True:
                try:
                    data = os.read(self.process.stdout.fileno(), 65536)
                except BlockingIOError:
                    return True
                if not data:
                    return False
                *lines, self._unfinished = (self._unfinished + data).split(b"\n")
                self._events += [json.loads(each) for each in lines]
                self._changed.notify_all()


class Agent:
    """The server of ZDS in a thread, as the daemon has it in its loop. Use it in a `with` block."""

    def __init__(
        self,
        path: Path,
        *,
        users: frozenset[int] = ROOT,
        patience: Patience | None = None,
        complete: bool = True,
        listener: Callable[[], Listener] | None = None,
    ) -> None:
        """Take the socket's path. `complete`: there are no pods but those that come."""
        self.path = path
        self.changed: list[str] = []
        self.measured: list[str] = []
        self._users = users
        self._patience = patience
        self._complete = complete
        self._listener = listener or (lambda: Listener.at(path, users))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.mesh: Mesh

    def start(self) -> Self:
        """Listen."""
        self._thread.start()
        try:
            self.call(self._start)
        except BaseException:
            self._end()
            raise
        return self

    def _start(self) -> None:
        self.mesh = Mesh(
            users=self._users,
            patience=self._patience,
            changed=self.changed.append,
            measured=lambda kind, _seconds: self.measured.append(kind),
        )
        if self._complete:
            self.mesh.complete(())
        self.mesh.listen(self._listener())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something in the loop to its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(SECONDS * 3)

    def call(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call something in the loop's thread."""

        async def called() -> T:
            return fn(*args, **kwargs)

        return self.wait(called())

    def add(self, uid: str, namespace: Namespace, seconds: float = SECONDS) -> Standing:
        """Have a pod served; return what a proxy says."""
        with descriptor(namespace) as opened:
            return self.wait(self.mesh.add(workload(uid), opened, seconds))

    def want(self, uid: str, namespace: Namespace) -> None:
        """Have a pod served; don't wait."""
        with descriptor(namespace) as opened:
            self.call(self.mesh.want, workload(uid), opened)

    def complete(self, pods: Iterable[tuple[str, Namespace | None]]) -> int:
        """Say which pods there are; return how many of the descriptors could not be used."""
        opened = [(workload(uid), descriptor(each) if each is not None else None) for uid, each in pods]
        try:
            return len(self.call(self.mesh.complete, opened))
        finally:
            for _, each in opened:
                if each is not None:
                    each.close()

    def delete(self, uid: str, seconds: float = SECONDS) -> Released | Refused | Unanswered:
        """Have a pod served no more."""
        return self.wait(self.mesh.delete(uid, seconds))

    def standing(self, uid: str) -> Standing | None:
        """Return how a pod stands."""
        return self.call(self.mesh.standing, uid)

    @property
    def state(self) -> MeshState:
        """How the server stands."""
        return self.call(self.mesh.state)

    @property
    def problems(self) -> str:
        """What went wrong, as lines."""
        return "\n".join(each.text for each in self.state.problems)

    def eventually(self, condition: Callable[[MeshState], object], what: str) -> None:
        """Wait until a condition on its state holds."""
        eventually(lambda: condition(self.state), what, SECONDS)

    def with_snapshot(self, proxies: int = 1) -> None:
        """Wait until so many proxies have acknowledged their snapshots."""
        self.eventually(
            lambda state: (
                sum(each.phase == "live" and not each.asked for each in state.proxies) == proxies
                and len(state.proxies) == proxies
            ),
            f"{proxies} proxies have their snapshot",
        )

    def stop(self) -> None:
        """Stop, as the daemon does; twice is once."""
        if self._thread.is_alive():
            self.call(self.mesh.close)
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()
