"""The lock that iptables' programs of the legacy flavour share, held by somebody else."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["held"]

HOLD = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print(flush=True); time.sleep(600)"


@contextlib.contextmanager
def held(lock: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Hold the lock in another process, as iptables itself does, until that is killed or the block ends."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield holder
    finally:
        holder.kill()
        holder.communicate()
