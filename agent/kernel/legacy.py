"""Which tables of iptables-legacy a namespace has, found by looking: nothing is started, and no module is loaded."""

from pathlib import Path

from agent.errors import KernelError
from rulesets.vocabulary import Family

_NAMES = {Family.IPV4: "ip_tables_names", Family.IPV6: "ip6_tables_names"}


def tables(family: Family) -> frozenset[str] | None:
    """Return the tables of ip_tables in this namespace, None where the kernel has no ip_tables at present."""
    try:
        # /proc/net is the main thread's namespace.
        return frozenset(Path("/proc/thread-self/net", _NAMES[family]).read_text().split())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KernelError(statement=f"cat /proc/net/{_NAMES[family]}", said=str(error.strerror)) from None
