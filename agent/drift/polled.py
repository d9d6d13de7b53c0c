"""What sends no word when it changes: settings of a namespace that defeat capture, and iptables-legacy's rules."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache

from agent.drift import Drift, Kind
from agent.kernel import legacy
from rulesets.vocabulary import Family

_SYSCTLS = "/proc/sys/net/netfilter"
_BEFORE = ("raw", "mangle")  # tables of iptables-legacy whose chains are met before Weir's


@dataclass(frozen=True, slots=True, kw_only=True)
class Polled:
    """Settings of one namespace, None where the kernel has none, and how big iptables-legacy's tables are.

    `loose` is nf_conntrack_tcp_loose; `helper` is nf_conntrack_helper, which Linux has until 5.19. `legacy` has family,
    table, number of rules and bytes of each table that is met before Weir's chains.
    """

    loose: int | None = None
    helper: int | None = None
    legacy: tuple[tuple[str, str, int, int], ...] = ()


def read() -> Polled:
    """Return what the calling thread's namespace has: 0.04 ms."""
    # Such files are looked up among those of all namespaces, so that one that no namespace has isn't asked for.
    helper = _number(f"{_SYSCTLS}/nf_conntrack_helper") if _assigns_by_itself() else None
    return _one_of(_number(f"{_SYSCTLS}/nf_conntrack_tcp_loose"), helper, tuple(_tables()))


@cache
def _assigns_by_itself() -> bool:
    return tuple(map(int, re.findall("[0-9]+", os.uname().release)[:2])) < (6, 0)


@lru_cache(maxsize=256)
def _one_of(loose: int | None, helper: int | None, tables: tuple[tuple[str, str, int, int], ...]) -> Polled:
    return Polled(loose=loose, helper=helper, legacy=tables)


def of_settings(before: Polled, after: Polled, *, now: float) -> tuple[Drift, ...]:
    """Return the settings that defeat capture and didn't before. Nobody tells who set them; they stay as they are."""
    found = []
    if after.loose == 0 and before.loose not in (0, None):
        said = "nf_conntrack_tcp_loose = 0: a captured stream that loses its entry goes past the proxy in plain"
        found.append(Drift(kind=Kind.SYSCTL, said=said, culprit=None, at=now))
    if after.helper == 1 and before.helper == 0:
        said = "nf_conntrack_helper = 1: connections that a helper expects go past the proxy"
        found.append(Drift(kind=Kind.HELPER, said=said, culprit=None, at=now))
    return tuple(found)


def _tables() -> Iterator[tuple[str, str, int, int]]:
    for family in Family:
        names = legacy.tables(family) or ()
        for table in _BEFORE:
            if table in names:
                yield (family, table, *legacy.size(family, table))


def _number(path: str) -> int | None:
    with suppress(OSError, ValueError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(descriptor, 64))
        finally:
            os.close(descriptor)
    return None
