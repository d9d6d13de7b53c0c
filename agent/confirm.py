"""Changes that undo themselves unless confirmed: against locking oneself out of a remote host.

A guard process of its own makes the change and holds it: it outlives the command and the login. Its table is owned by
its socket, so that the kernel takes the rules away when the guard itself is killed. On a kernel without owned tables
(before 5.12) there is only the guard. Whoever connects to the guard's socket confirms.
"""

import contextlib
import json
import os
import select
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agent import report
from agent.errors import Busy, TargetError, WeirError
from agent.guards import guard_folder, guard_socket
from agent.kernel import features, routing
from agent.kernel.handle import Handle
from agent.kernel.netns import Identity, Netns, identify
from agent.local_api import listening_socket
from agent.observed import Observed, observe
from agent.reconcile import read_back, reconcile
from agent.report import Report
from agent.state import Records, run_directory
from agent.targets import Absent, State, Target
from rulesets.diff import diff
from rulesets.routing import RoutingPlan

_KEPT, _UNDONE = "kept", "undone"
_PATIENCE, _PAUSE = 30.0, 0.1  # seconds: for how long a guard tries to undo its change, and between two attempts


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A change that a guard has made: how it went, whether anything is to be undone, and where it says how it ended."""

    report: Report
    changed: bool
    ended: int

    def wait(self) -> bool:
        """Wait until the change is kept (true) or undone (false). Raises `WeirError` when it is neither."""
        with os.fdopen(self.ended, encoding="utf-8") as lines:
            said = lines.readline().strip()
        target = f"target {self.report.target!r}"
        if not said:
            fate = "the kernel has taken the rules away" if _flags() else "this kernel leaves the rules as they are"
            raise WeirError(
                f"{target}: the guard was killed before it was confirmed, and {fate}",
                hint="`weir diff` shows what is left, `weir remove` takes it away",
            )
        if said not in (_KEPT, _UNDONE):
            raise WeirError(f"{target}: {json.loads(said)}", hint="`weir diff` shows what is there")
        return said == _KEPT


def start(target: Target, seconds: float) -> Guarded:
    """Have a guard capture a target for so many seconds, unless it is confirmed before. Returns when it has.

    To be called while this process has one thread only. Raises `WeirError` when the guard was killed meanwhile.
    """
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        with contextlib.suppress(BaseException):
            _become_guard(target, seconds, writing)
        os._exit(0)
    os.close(writing)
    line = b""
    while not line.endswith(b"\n"):
        read = os.read(reading, 1)
        if not read:
            os.close(reading)
            raise WeirError(
                f"target {target.name!r}: the guard ended without a word, so that nothing stays",
                hint="`weir diff` shows what is there",
            )
        line += read
    made = report.parse(json.loads(line))
    return Guarded(report=made, changed=_is_change(made), ended=reading)


def confirm(target: Target) -> None:
    """Keep what a guard holds in a target. Raises `TargetError` when there is none."""
    identity = identify(Netns(target.netns).file)
    folder = run_directory()
    path = guard_socket(folder, identity) if identity else guard_folder(folder) / "none.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as guard:
        try:
            guard.connect(str(path))
            said = guard.recv(16).decode()  # it answers when the rules are there to stay
        except OSError:
            said = ""
    if said != _KEPT:
        raise TargetError(
            f"target {target.name!r} (netns {target.netns!r}): nothing waits to be confirmed",
            hint="the time was over, or `weir apply --confirm` has not been asked for",
        )


def _is_change(made: Report) -> bool:
    """Tell whether a report is of a change that was made, so that there is something to undo."""
    return made.state is not State.WAITING and bool(made.changes)


def _become_guard(target: Target, seconds: float, said: int) -> None:
    """Leave the command's session, so that neither its end nor that of the login reaches this process, and guard."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    with ThreadPoolExecutor(1, "kernel") as worker:
        worker.submit(_guard, target, seconds, said).result()


def _guard(target: Target, seconds: float, said: int) -> None:
    """Make the change, wait for the word that keeps it, and undo it otherwise.

    The socket comes first: nothing is changed that nobody could confirm.
    """
    try:
        handle = Handle(Netns(target.netns), flags=_flags())
        identity = handle.netns.identity
        with _only_guard(target, identity), _listening(guard_socket(run_directory(), identity)) as asked:
            before = _restorable(target, handle)
            made = report.of_outcome(read_back(reconcile(target, handle, Records()), handle))
            _say(said, json.dumps(made.document()))
            if _is_change(made):
                _keep_or_undo(target, handle, before, asked, seconds, said)
    except WeirError as error:
        _say(said, json.dumps(report.of_error(target, error).document()))


def _flags() -> tuple[str, ...]:
    """Return the flag of a table that goes with this process; none where the kernel has no such tables."""
    lacking = {each.feature.name for each in features.missing(features.probe())}
    return () if features.OWNED_TABLES in lacking else ("owner",)


def _restorable(target: Target, handle: Handle) -> Observed:
    """Return what is there before the change. Raises `TargetError` when it couldn't be put back."""
    before = observe(handle, target)
    if before.ruleset is not None and (before.ruleset.foreign or any(rule.foreign for rule in before.ruleset.rules())):
        raise TargetError(
            f"target {target.name!r}: table inet {target.table} holds what isn't Weir's, and couldn't be put back",
            hint="`weir diff` shows it; `weir apply` without --confirm replaces it",
        )
    return before


def _keep_or_undo(
    target: Target, handle: Handle, before: Observed, asked: socket.socket, seconds: float, said: int
) -> None:
    readable, _, _ = select.select([asked], [], [], seconds)
    try:
        if readable:
            asker = asked.accept()[0]
            handle.disown(target.table)
            with contextlib.suppress(OSError), asker:
                asker.sendall(_KEPT.encode())
            _say(said, _KEPT)
        else:
            _undo_at_last(target, handle, before)
            _say(said, _UNDONE)
    except WeirError as error:
        _say(said, json.dumps(f"{'keeping' if readable else 'undoing'} it failed: {error}"))


def _undo_at_last(target: Target, handle: Handle, before: Observed) -> None:
    """Undo, again and again while somebody is in the way: another Weir at work there, say. Raises `WeirError`."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return _undo(target, handle, before)
        except WeirError:
            handle.netns.check()  # with the namespace all of it has gone
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)


def _undo(target: Target, handle: Handle, before: Observed) -> None:
    """Bring back what was there: nothing, or the rules and routes from before. Raises `WeirError`."""
    if before.ruleset is None:
        outcome = reconcile(Target(name=target.name, netns=target.netns, wish=Absent()), handle, Records())
        if outcome.state is State.FAILED:
            raise WeirError(outcome.reason, hint=outcome.hint)
        return
    with Records().held(handle.netns.identity):
        handle.disown(target.table)
        handle.apply(diff(handle.read(target.table), before.ruleset))
        now = observe(handle, target)
        with handle.inside():
            routing.apply(RoutingPlan(actual=now.routing, desired=before.routing))


@contextlib.contextmanager
def _only_guard(target: Target, identity: Identity) -> Iterator[None]:
    """Be the only guard of a namespace: a second one would take away the first one's socket. Raises `Busy`."""
    with contextlib.ExitStack() as held:
        try:
            # Not found out by connecting to the socket, which would confirm.
            held.enter_context(Records(guard_folder(run_directory())).held(identity))
        except Busy:
            raise Busy(
                f"target {target.name!r} (netns {target.netns!r}): a change waits to be confirmed already",
                hint=f"`weir confirm --netns {shlex.quote(target.netns)}` keeps it; else wait until it is undone",
            ) from None
        yield


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """Listen for the word that confirms. Raises `WeirError` when the socket can't be made."""
    try:
        opened = listening_socket(path)
    except OSError as error:
        raise WeirError(f"{path}: {error.strerror or error}", hint="WEIR_RUN_DIR names another run directory") from None
    try:
        opened.listen()
        yield opened
    finally:
        opened.close()
        path.unlink(missing_ok=True)


def _say(said: int, text: str) -> None:
    """Tell the command, if it is still there."""
    with contextlib.suppress(OSError):
        os.write(said, f"{text}\n".encode())
