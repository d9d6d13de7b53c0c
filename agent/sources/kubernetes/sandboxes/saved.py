"""The sandboxes that are known, kept over a restart: one small file for each pod in the run directory."""

import json
import os
import re
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from agent.errors import NamespaceMissing, TargetError, WeirError
from agent.kernel.netns import Identity, Netns, identify
from agent.sources.kubernetes.sandboxes.sandbox import Sandbox, is_there
from agent.state import clear_drafts, run_directory, write_whole
from rulesets.settings import shown

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_UID = re.compile(r"[0-9A-Za-z][-0-9A-Za-z]{0,127}", re.ASCII)  # it becomes the name of a file


@dataclass(frozen=True, slots=True)
class _Held:
    """A namespace that this process keeps open."""

    descriptor: int
    identity: Identity


class Sandboxes:
    """The sandboxes of this node's pods, by uid. Files are written whole; each is checked before it is believed.

    Calls but `forget` and `close` enter namespaces or write files: make them in worker threads. Those about different
    pods may come from several threads at once.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Keep files in `directory`, by default ``sandboxes`` in the run directory. Nothing is read or made yet."""
        self._directory = directory or run_directory() / "sandboxes"
        self._held: dict[str, _Held] = {}
        self._lock = threading.Lock()

    def remember(self, sandbox: Sandbox) -> Sandbox:
        """Keep a sandbox, in the place of another of the same pod, and return it with the path that is to be used.

        That is the one given, where the namespace is mounted there. One that only processes keep is held open by this
        process and has the path of that descriptor (``/proc/PID/fd/N``): it outlives the process by which it was found,
        until `forget`. Raises `NamespaceMissing` where it is there no more, and `PermissionMissing` where the file
        can't be written; then what was kept before is kept on.
        """
        path = self._path(sandbox.uid)
        lasting = self._lasting(sandbox)
        write_whole(path, _document(sandbox))
        return lasting

    def forget(self, uid: str) -> None:
        """Keep nothing of a pod. Nothing happens where nothing is known; it takes no time."""
        if _UID.fullmatch(uid):
            self._path(uid).unlink(missing_ok=True)
        self._let_go(uid)

    def known(self, uid: str) -> Sandbox | None:
        """Return a pod's sandbox, looked at in this moment; None where nothing is known or it is there no more.

        Of one that this process holds open, too, where the process by which it was found has ended: it is to be looked
        for again then, for the pod may have another by now. `remember` goes on with the same path where it is the same.
        """
        sandbox = _read(self._path(uid))
        if sandbox is None or sandbox.uid != uid or not is_there(sandbox):
            return None
        with suppress(NamespaceMissing):
            return self._lasting(sandbox)
        return None

    def all_known(self) -> dict[str, Sandbox]:
        """Return every pod's sandbox that is there, by uid, each looked at. 0.1 ms each."""
        uids = [each.stem for each in sorted(self._directory.glob("*.json")) if _UID.fullmatch(each.stem)]
        return {uid: sandbox for uid in uids if (sandbox := self.known(uid)) is not None}

    def keep_only(self, uids: Collection[str]) -> None:
        """Forget every pod but these, and what killed writers left: when the API has listed the node's pods."""
        known = {each.stem for each in self._directory.glob("*.json")} | set(self._held)
        for uid in known - set(uids):
            self.forget(uid)
        clear_drafts(self._directory.glob("*.tmp"))

    def close(self) -> None:
        """Let go of every namespace. The files stay, for the next life of the agent."""
        for uid in tuple(self._held):
            self._let_go(uid)

    def _path(self, uid: str) -> Path:
        if not _UID.fullmatch(uid):
            raise TargetError(f"uid = {shown(uid)}: is not as Kubernetes makes them")
        return self._directory / f"{uid}.json"

    def _lasting(self, sandbox: Sandbox) -> Sandbox:
        """Return a sandbox with a path that is there for as long as the namespace."""
        # What a link in /proc leads to has no path of its own (net:[4026531840]); a mount has.
        if identify(os.path.realpath(Netns(sandbox.netns).file)) == sandbox.identity:
            self._let_go(sandbox.uid)
            return sandbox
        with self._lock:
            held = self._held.get(sandbox.uid)
            if held is None or held.identity != sandbox.identity:
                self._held[sandbox.uid] = newer = _opened(sandbox)
                if held is not None:
                    os.close(held.descriptor)
                held = newer
        return replace(sandbox, netns=f"/proc/{os.getpid()}/fd/{held.descriptor}")

    def _let_go(self, uid: str) -> None:
        with self._lock:
            held = self._held.pop(uid, None)
            if held is not None:
                os.close(held.descriptor)


def _opened(sandbox: Sandbox) -> _Held:
    try:
        descriptor = os.open(Netns(sandbox.netns).file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as error:
        raise NamespaceMissing(f"{sandbox} is there no more: {error.strerror}") from None
    found = os.fstat(descriptor)
    if Identity(found.st_dev, found.st_ino) != sandbox.identity:
        os.close(descriptor)
        raise NamespaceMissing(f"{sandbox} is there no more: the path leads to {found.st_dev}:{found.st_ino} by now")
    return _Held(descriptor, sandbox.identity)


def _document(sandbox: Sandbox) -> str:
    return json.dumps(
        {
            "boot": _boot(),
            "uid": sandbox.uid,
            "netns": sandbox.netns,
            "device": sandbox.identity.device,
            "inode": sandbox.identity.inode,
            "cookie": sandbox.cookie,
            "container": sandbox.container,
            "interface": sandbox.interface,
            "addresses": [str(each) for each in sandbox.addresses],
        }
    )


def _read(path: Path) -> Sandbox | None:
    """Return what a file says, or None: also where it is of another boot, in which numbers meant other namespaces."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["boot"] != _boot():
            return None
        sandbox = Sandbox(
            uid=str(told["uid"]),
            netns=str(told["netns"]),
            identity=Identity(int(told["device"]), int(told["inode"])),
            cookie=int(told["cookie"]),
            container=str(told["container"]),
            interface=str(told["interface"]),
            addresses=tuple(map(ip_address, told["addresses"])),
        )
        Netns(sandbox.netns)
    except (OSError, ValueError, LookupError, TypeError, WeirError):
        return None
    return sandbox


@cache
def _boot() -> str:
    return _BOOT.read_text(encoding="ascii").strip()
