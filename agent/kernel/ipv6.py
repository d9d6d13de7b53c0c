"""Whether a namespace has IPv6: in the kernel, in the namespace, and on its loopback interface are three things."""

import os
from enum import StrEnum
from pathlib import Path

_CONF = Path("/proc/sys/net/ipv6/conf")  # Documentation/networking/ip-sysctl.rst, disable_ipv6


class Ipv6(StrEnum):
    """How far IPv6 goes in a namespace."""

    ON = "on"
    ABSENT = "not in the kernel"
    OFF = "off in the namespace"
    OFF_ON_LOOPBACK = "off on lo only"


def state(conf: Path = _CONF) -> Ipv6:
    """Return the state of IPv6 in the calling thread's namespace, as its settings under `conf` show it.

    `OFF_ON_LOOPBACK`: other interfaces have it, but there is no ::1 that a connection could be redirected to, and no
    local route can be added: such connections can't be captured.
    """
    try:
        names = sorted(os.listdir(conf))
    except FileNotFoundError:
        return Ipv6.ABSENT
    on = {name for name in names if name not in ("all", "default") and not _disabled(conf / name)}
    if "lo" in on:
        return Ipv6.ON
    return Ipv6.OFF_ON_LOOPBACK if on else Ipv6.OFF


def _disabled(interface: Path) -> bool:
    try:
        return (interface / "disable_ipv6").read_text(encoding="ascii").strip() == "1"
    except OSError:
        return True  # it went away in this moment
