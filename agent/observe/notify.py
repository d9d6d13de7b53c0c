"""Word to the service manager (sd_notify(3)): ready, reloading, alive. Nothing without one."""

import contextlib
import os
import socket
import time


def notify(**fields: str) -> None:
    """Send fields such as READY=1 to the socket that the service manager named; do nothing where it named none."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    text = "\n".join(f"{name}={value}" for name, value in fields.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.sendto(text.encode(), address)


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
