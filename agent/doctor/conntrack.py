"""Connection tracking: whether the table is big enough, and whether its time-outs outlive idle streams."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.doctor.files import SYSCTLS, sysctl
from agent.doctor.findings import Finding, Level

FULL, NEARLY_FULL = 0.95, 0.75  # parts of the table
_ENTRY = 400  # bytes: an entry and its extensions, about (kmem, nf_conntrack slab on 6.18)
_LONGEST_CHAIN = 4  # entries for each bucket, the kernel's own ratio until 5.15 (nf_conntrack_core.c)
_FEW = 65_536  # entries: the kernel's own number from 1 GiB of memory on
_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """Settings and counts of one namespace; None where the kernel doesn't tell. Times are in seconds."""

    count: int | None = None
    maximum: int | None = None
    buckets: int | None = None
    established: int | None = None
    keepalive: int | None = None
    loose: int | None = None
    memory: int = 0


def read(root: Path = SYSCTLS) -> Tracking:
    """Return what the calling thread's namespace says. Raises nothing."""
    folder = "net/netfilter"
    return Tracking(
        count=sysctl(f"{folder}/nf_conntrack_count", root),
        maximum=sysctl(f"{folder}/nf_conntrack_max", root),
        buckets=sysctl(f"{folder}/nf_conntrack_buckets", root),
        established=sysctl(f"{folder}/nf_conntrack_tcp_timeout_established", root),
        keepalive=sysctl("net/ipv4/tcp_keepalive_time", root),
        loose=sysctl(f"{folder}/nf_conntrack_tcp_loose", root),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def judge(found: Tracking) -> Iterator[Finding]:
    """Yield what is wrong in one namespace: a table that fills, time-outs, mid-stream pick-up that is off."""
    if found.count is not None and found.maximum:
        used = found.count / found.maximum
        if used >= NEARLY_FULL:
            yield Finding(
                check="conntrack-full",
                level=Level.ERROR if used >= FULL else Level.WARNING,
                what=f"{found.count} of {found.maximum} connections are tracked ({used:.0%})",
                why="when the table is full the kernel drops the first packet of every new connection",
                do="raise the limit on the node; the busiest peers are in `conntrack -L`",
                command=f"sysctl -w net.netfilter.nf_conntrack_max={2 * found.maximum}",
            )
    if found.established is not None and found.keepalive is not None and found.established < found.keepalive:
        yield Finding(
            check="conntrack-timeout",
            level=Level.WARNING,
            what=f"nf_conntrack_tcp_timeout_established = {found.established} s, and TCP's keepalive comes after"
            f" {found.keepalive} s (tcp_keepalive_time)",
            why="a stream that is silent for longer is forgotten: what was translated for it, a Service's address say,"
            " is lost, and a captured one lives on only if it is picked up again",
            do="let the time-out be longer than the keepalive of clients and servers",
            command=f"sysctl -w net.netfilter.nf_conntrack_tcp_timeout_established={max(86400, 2 * found.keepalive)}",
        )
    if found.loose == 0:
        yield Finding(
            check="conntrack-loose",
            level=Level.WARNING,
            what="nf_conntrack_tcp_loose = 0",
            why="a captured stream that loses its entry is invalid from then on, and what is invalid isn't redirected:"
            " it goes past the proxy in plain",
            do="let streams be picked up again",
            command="sysctl -w net.netfilter.nf_conntrack_tcp_loose=1",
        )


def judge_size(found: Tracking) -> Iterator[Finding]:
    """Yield what is wrong with the size that all namespaces of the machine share."""
    if found.maximum and found.buckets and found.maximum > _LONGEST_CHAIN * found.buckets:
        yield Finding(
            check="conntrack-buckets",
            level=Level.WARNING,
            what=f"nf_conntrack_max = {found.maximum} with {found.buckets} buckets",
            why=f"up to {found.maximum // found.buckets} entries stand in a row, and every packet looks through one",
            do="raise the number of buckets",
            command=f"echo {found.maximum} > /sys/module/nf_conntrack/parameters/hashsize",
        )
    if found.maximum and found.memory and found.maximum * _ENTRY > found.memory / 4:
        yield Finding(
            check="conntrack-memory",
            level=Level.WARNING,
            what=f"nf_conntrack_max = {found.maximum}: up to {found.maximum * _ENTRY / _GIB:.1f} GiB of"
            f" {found.memory / _GIB:.1f} GiB of memory, for each namespace",
            why="a flood of connections would take memory that cannot be swapped out",
            do="lower the limit, or add memory",
        )
    if found.maximum is not None and found.maximum < _FEW and found.memory > _GIB:
        yield Finding(
            check="conntrack-small",
            level=Level.WARNING,
            what=f"nf_conntrack_max = {found.maximum}, with {found.memory / _GIB:.1f} GiB of memory",
            why="a captured connection has two entries in its pod, and on the node another",
            do="raise the limit",
            command=f"sysctl -w net.netfilter.nf_conntrack_max={2 * _FEW}",
        )
