"""Word to the service manager (sd_notify(3)): ready, reloading, alive, a descriptor to keep. Nothing without one."""

import contextlib
import os
import socket
import time
from array import array
from collections.abc import Mapping


def notify(**fields: str) -> None:
    """Send fields such as READY=1 to the socket that the service manager named; do nothing where it named none."""
    _send(fields)


def keep_descriptor(name: str, descriptor: int) -> bool:
    """Have the service manager keep a descriptor for the next start, in the place of an earlier one of that name.

    It is then among those of sd_listen_fds(3). False where there is no manager; one that is not to keep any says
    nothing (FileDescriptorStoreMax= in systemd.service(5)).
    """
    return _send({"FDSTOREREMOVE": "1", "FDNAME": name}) and _send({"FDSTORE": "1", "FDNAME": name}, descriptor)


def _send(fields: Mapping[str, str], *descriptors: int) -> bool:
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = f"\0{path[1:]}" if path.startswith("@") else path
    text = "\n".join(f"{name}={value}" for name, value in fields.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
        out.sendmsg([text.encode()], rights, 0, address)
        return True
    return False


def watchdog_interval() -> float | None:
    """Return how often, in seconds, WATCHDOG=1 is to be sent: half of what the manager waits. None: not at all."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(KeyError, ValueError):
        return int(os.environ["WATCHDOG_USEC"]) / 2_000_000
    return None


def monotonic_microseconds() -> str:
    """Return the time stamp that RELOADING=1 must carry."""
    return str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)
