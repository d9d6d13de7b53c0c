"""Whoever else changes rules in a namespace: processes that write without end, and such that own a table."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from netns_tests.namespace import Namespace

__all__ = ["OWNING", "busy", "owner_of", "tables"]

_BUSY = """
import sys, nftables
context, number = nftables.Nftables(), sys.argv[1]
print("ready", flush=True)
while True:
    for command in (f"add table ip other{number}", f"add chain ip other{number} c", f"delete table ip other{number}"):
        code, _, said = context.cmd(command)
        assert not code, said
"""
OWNING = """
import sys, nftables
context = nftables.Nftables()
code, _, said = context.cmd(sys.argv[1])
print(code, said, flush=True)
sys.stdin.read()
"""


@contextmanager
def busy(namespace: Namespace, processes: int) -> Iterator[None]:
    """Have processes change tables of their own, as fast as they can: the namespace's generation never rests."""
    running = [
        namespace.spawn([sys.executable, "-c", _BUSY, str(number)], stdout=subprocess.PIPE)
        for number in range(processes)
    ]
    try:
        for each in running:
            assert each.stdout is not None
            assert each.stdout.readline() == b"ready\n"
        yield
        assert all(each.poll() is None for each in running)
    finally:
        for each in running:
            each.kill()
            each.wait()
            if each.stdout is not None:
                each.stdout.close()


@contextmanager
def owner_of(
    namespace: Namespace, flags: str, body: str = "", *, before: tuple[str, ...] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    """Have another process make Weir's table with flags, and own it until the block ends; it is then killed.

    `before` stands before its command line: a number that it gets elsewhere, say.
    """
    script = f"add table inet weir-pod {{ flags {flags}; }}\n{body}"
    command = [*before, sys.executable, "-c", OWNING, script]
    process = namespace.spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0 \n"
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def tables(namespace: Namespace) -> str:
    """Return what `nft list tables` prints."""
    return namespace.command("nft", "list", "tables")
