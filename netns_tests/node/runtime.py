"""The container runtime's part, as a process on the machine: makes namespaces, starts CNI plugins as libcni does.

One command is a line of JSON on stdin, its answer a line on stdout:

    {"do": "sandbox", "names": [NAME, ...], "lines": [[LINE OF ip -batch, ...], ...]}   namespaces, set up inside
    {"do": "run", "calls": [[{"program": PATH, "input": TEXT, "environment": {...}}, ...], ...]}

A call is a chain: the plugins of one follow each other, with what the one printed as `prevResult` of the next. Chains
run all at once. Each plugin's answer: its exit code, what it printed, and the seconds from its start to its end.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


class _Chain:
    """The plugins of one call."""

    def __init__(self, steps: list[dict[str, Any]], folder: Path, number: int) -> None:
        self.done: list[dict[str, Any]] = []
        self._steps = steps
        self._folder = folder / str(number)
        self._folder.mkdir()
        self._result: Any = None
        self._began = 0.0
        # Written beforehand: what is measured is the plugin.
        self._prepare()

    def _prepare(self) -> None:
        step = self._steps[len(self.done)]
        given = json.loads(step["input"])
        if self._result is not None:
            given["prevResult"] = self._result
        (self._folder / "in").write_text(json.dumps(given))

    def start(self) -> int:
        """Start the next plugin; return its process."""
        step = self._steps[len(self.done)]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, str(self._folder / "in"), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self._folder / "out"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, str(self._folder / "err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        ]
        self._began = time.perf_counter()
        return os.posix_spawn(step["program"], [step["program"]], step["environment"], file_actions=actions)

    def ended(self, status: int, at: float) -> bool:
        """Take note of a plugin's end; tell whether another follows."""
        code = os.waitstatus_to_exitcode(status)
        said = {name: (self._folder / name).read_text() for name in ("out", "err")}
        self.done.append({"code": code, "seconds": at - self._began, **said})
        if code or len(self.done) == len(self._steps):
            return False
        if said["out"].strip():
            self._result = json.loads(said["out"])
        self._prepare()
        return True


def run(calls: list[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """Run chains at once."""
    with tempfile.TemporaryDirectory(prefix="weir-cni-") as folder:
        chains = [_Chain(steps, Path(folder), number) for number, steps in enumerate(calls)]
        running = {chain.start(): chain for chain in chains}
        while running:
            pid, status = os.waitpid(-1, 0)
            at = time.perf_counter()
            chain = running.pop(pid)
            if chain.ended(status, at):
                running[chain.start()] = chain
        return [chain.done for chain in chains]


def sandbox(names: list[str], lines: list[list[str]]) -> None:
    """Make namespaces, each with its interfaces as `ip -batch` is told."""
    _ip("\n".join(f"netns add {each}" for each in names))
    for name, each in zip(names, lines, strict=True):
        inside = ["ip", "netns", "exec", name, "sh", "-euc"]
        subprocess.run([*inside, "echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad; ip link set lo up"], check=True)
        if each:
            _ip("\n".join(each), "-n", name)


def _ip(lines: str, *options: str) -> None:
    subprocess.run(["ip", *options, "-batch", "-"], input=lines, text=True, check=True)


def main() -> None:
    """Obey until the test is gone."""
    for line in sys.stdin:
        command = json.loads(line)
        answer: Any = None
        if command["do"] == "run":
            answer = run(command["calls"])
        else:
            sandbox(command["names"], command["lines"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
