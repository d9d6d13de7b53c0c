"""A machine of a test's own: process 1, mounts and network, so that `host` and "every namespace" mean the test's."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from netns_tests.command import Command, end
from netns_tests.namespace import Namespace
from netns_tests.world import eventually

__all__ = ["Machine"]

# The mounts are private copies: what is unmounted or hidden here stays where it is for everybody else. /run/netns,
# /etc/weir and /etc/cni/net.d are the machine's own, and no namespace of another test is left to be found.
_SET_UP = """
grep ' nsfs ' /proc/self/mountinfo | cut -d' ' -f5 | while read -r path; do
    umount "$path" || ! grep -q " $path " /proc/self/mountinfo # whoever deletes the file takes every copy of the mount
done
[ ! -d /etc/cni/net.d ] || mount -t tmpfs none /etc/cni/net.d
mount -t tmpfs none /run && mkdir -p /run/netns /run/weir
ip link set lo up
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
echo ready
exec sleep infinity
"""


class Machine:
    """Process 1 is a sleeping one. Use it in a `with` block; at its end every process inside is killed."""

    def __init__(self, *, environment: Mapping[str, str] | None = None) -> None:
        """Say what the commands inside find in their environment; nothing is made before the block is entered."""
        self._environment = environment
        self._unshare: subprocess.Popen[str]
        self.pid = 0
        self.directory = Path()

    def __enter__(self) -> Self:
        """Make the machine."""
        self.directory = Path(tempfile.mkdtemp(prefix="weir-machine-"))
        unshare = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--mount"]
        self._unshare = subprocess.Popen(
            [*unshare, "sh", "-euc", _SET_UP], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        try:
            assert self._unshare.stdout is not None
            if self._unshare.stdout.readline() != "ready\n":
                raise RuntimeError("the machine was not made: see above")
            self.pid = int(Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text())
            eventually(lambda: os.readlink(f"/proc/{self.pid}/exe").endswith("sleep"), "process 1 sleeps")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """End the machine; its namespaces go with its processes."""
        self._unshare.kill()  # which the kernel passes on to process 1, and that to every other process inside
        self._unshare.communicate()
        if self.pid:
            eventually(lambda: not Path(f"/proc/{self.pid}/ns").exists(), "every process inside has ended")
        shutil.rmtree(self.directory)

    @property
    def path(self) -> Path:
        """Its network namespace."""
        return Path(f"/proc/{self.pid}/ns/net")

    @property
    def prefix(self) -> tuple[str, ...]:
        """What starts a command inside, in front of it."""
        return ("nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--")

    @property
    def weir(self) -> Command:
        """The `weir` command inside; its run directory is outside too."""
        return Command(self.directory, self.prefix, self._environment)

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run a command inside and return its output; a failure says what was said."""
        done = subprocess.run([*self.prefix, *argv], input=stdin, text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"exit {done.returncode}: {' '.join(argv)}\n{done.stderr}{done.stdout}")
        return done.stdout

    @contextlib.contextmanager
    def background(self, *argv: str) -> Iterator[subprocess.Popen[str]]:
        """Start a process inside; it is ended with the block."""
        process = subprocess.Popen(
            [*self.prefix, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process
        finally:
            end(process)

    def connect(self, other: Namespace, link: str, here: tuple[str, ...], there: tuple[str, ...]) -> None:
        """Lay a cable to a namespace: `link` at both ends, with addresses such as 10.9.0.1/24."""
        other.ip(
            f"link add {link} type veth peer name {link} netns {self.pid}",
            f"link set {link} up",
            *(f"addr add {each} dev {link}" + (" nodad" if ":" in each else "") for each in there),
        )
        lines = [f"link set {link} up", *(f"addr add {each} dev {link}" + " nodad" * (":" in each) for each in here)]
        self.run("ip", "-batch", "-", stdin="\n".join(lines))

    def state(self) -> str:
        """Return all rules, routes and settings, as text to be compared byte by byte."""
        lists = [self.run("nft", "-s", "list", "ruleset")]
        for family in ("-4", "-6"):
            lists += [self.run("ip", family, "rule"), self.run("ip", family, "route", "show", "table", "all")]
        sysctls = self.run("sh", "-c", "grep -r . /proc/sys/net 2>/dev/null | sort || true")
        unsteady = ("nf_conntrack_count", "netns_ids", "ip_vs", "fib_notify")
        lists += [line for line in sysctls.splitlines() if not any(each in line for each in unsteady)]
        return "\n".join(lists)
