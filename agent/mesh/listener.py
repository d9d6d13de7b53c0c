"""The listening socket at ztunnel's path: made beside it and renamed onto it, or handed over by whoever started us."""

import contextlib
import os
import socket
import stat
from collections.abc import MutableMapping
from enum import StrEnum
from pathlib import Path
from typing import Self

from agent.errors import ConfigError

PATH = Path("/var/run/ztunnel/ztunnel.sock")  # ztunnel's INPOD_UDS
_LONGEST_PATH = 107  # bytes (unix(7)), of the temporary name too
_FIRST_INHERITED = 3  # sd_listen_fds(3)
_BACKLOG = 128


class Place(StrEnum):
    """What the path leads to."""

    OURS = "ours"
    MISSING = "missing"
    STALE = "stale"  # a socket on which nobody listens
    TAKEN = "taken"  # somebody else's: a proxy that connects now gets to them


class Listener:
    """A listening socket and its file."""

    __slots__ = ("_file", "_handed_over", "path", "socket")

    def __init__(self, path: Path, opened: socket.socket, *, handed_over: bool) -> None:
        """Take a socket that listens at a path."""
        self.path = path
        self.socket = opened
        self.socket.setblocking(False)
        self._handed_over = handed_over
        self._file = _identity(path)

    @classmethod
    def at(cls, path: Path, users: frozenset[int] = frozenset({0})) -> Self:
        """Listen at a path, where no moment is without a socket if there was one. Only `users` are to connect.

        Raises `ConfigError` when somebody else listens there, or something other than a socket is in the way.
        """
        if look(path) is Place.TAKEN:
            raise ConfigError(
                f"{path}: another agent listens there",
                hint="a node can have one agent that speaks to its proxies: remove the other (Istio's istio-cni-node)",
            )
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        if len(os.fsencode(temporary)) > _LONGEST_PATH:
            raise ConfigError(f"{temporary}: is longer than the {_LONGEST_PATH} bytes that a socket's path can have")
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path)
            temporary.unlink(missing_ok=True)
            opened.bind(str(temporary))
            # Connecting needs the right to write. Root always may; which others, the peer's user decides.
            temporary.chmod(0o600 if users <= {0} else 0o666)
            opened.listen(_BACKLOG)
            temporary.rename(path)
        except OSError as error:
            opened.close()
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise ConfigError(f"{path}: the socket can't be made: {error.strerror or error}") from None
        return cls(path, opened, handed_over=False)

    @classmethod
    def inherited(cls, path: Path, environment: MutableMapping[str, str] = os.environ) -> Self | None:
        """Return the socket of this path among those handed over (LISTEN_FDS, sd_listen_fds(3)); None without one.

        It has never stopped listening, so a proxy that connects between two lives of the agent just waits.
        """
        if environment.get("LISTEN_PID") != str(os.getpid()):
            return None
        count = environment.get("LISTEN_FDS", "")
        for number in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count) if count.isdecimal() else 0):
            try:
                opened = socket.socket(fileno=number)
            except OSError:
                continue  # no socket, so somebody else's
            if _listens_for(opened, path):
                opened.set_inheritable(False)
                return cls(path, opened, handed_over=True)
            opened.detach()
        return None

    def leave_open(self) -> None:
        """Leave the path as it is when this is closed: somebody keeps the socket, and hands it over to the next."""
        self._handed_over = True

    def place(self) -> Place:
        """Tell what the path leads to by now."""
        found = _identity(self.path)
        return Place.OURS if found is not None and found == self._file else look(self.path)

    def close(self) -> None:
        """Stop listening, and take the path away where it is still ours and nobody keeps the socket."""
        if not self._handed_over and self.place() is Place.OURS:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.socket.close()


def look(path: Path) -> Place:
    """Tell what a path leads to, by connecting. Raises `ConfigError` for what is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return Place.MISSING
    except OSError as error:
        raise ConfigError(f"{path}: can't be looked at: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path}: is no socket, and is not replaced", hint="take it away, or name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return Place.STALE
        except FileNotFoundError:
            return Place.MISSING
        except OSError:  # EAGAIN: its backlog is full; EPROTOTYPE: a socket of another type listens
            return Place.TAKEN
    return Place.TAKEN


def _listens_for(opened: socket.socket, path: Path) -> bool:
    if opened.family != socket.AF_UNIX or opened.type != socket.SOCK_SEQPACKET:
        return False
    name = opened.getsockname()
    if not isinstance(name, str) or not opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    # One that `at` made keeps the name that it was bound to.
    return Path(name) == path or (Path(name).parent == path.parent and Path(name).name.startswith(f".{path.name}."))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _sweep(path: Path) -> None:
    """Take away what an agent left that was killed between making its socket and renaming it."""
    for each in path.parent.glob(f".{path.name}.*"):
        with contextlib.suppress(OSError, ConfigError):
            if look(each) is Place.STALE:
                each.unlink()
