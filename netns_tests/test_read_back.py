"""libnftables bears witness after the kernel's acknowledgement: what isn't as written is told, counted and repaired."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.handle import Handle
from agent.kernel.netns import Netns
from agent.reconcile import read_back, reconcile
from agent.targets import Captured, State, Target
from netns_tests.daemon import PROXY, Daemon, listening, rules, targets
from netns_tests.enrolling import Weir, capture
from netns_tests.namespace import Namespace
from rulesets.diff import Plan

WISH = {"when_proxy_absent": "capture"}


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace.create("witness") as made:
        yield made


def test_a_wrong_rule_after_the_acknowledgement_is_told_and_repaired(namespace: Namespace, tmp_path: Path) -> None:
    with Weir(namespace, tmp_path) as weir:
        target = Target(name="t", netns=namespace.name, wish=Captured(capture=capture(**WISH)))
        outcome = weir.call(reconcile, target, weir.handle, weir.records)
        assert (outcome.state, outcome.read_back) == (State.DEGRADED, None)
        namespace.nft("insert rule inet weir-pod nat-out tcp dport 25 accept")
        told = weir.call(read_back, outcome, weir.handle)
        assert (told.state, told.read_back, told.captured) == (State.FAILED, False, False)
        assert "chain nat-out\n  - tcp dport 25 " in told.reason
        again = weir.capture(**WISH)
        assert (again.state, again.read_back) == (State.DEGRADED, True)
        assert "dport 25" not in namespace.command("nft", "list", "ruleset")


_SPOILER = """
import socket, sys
from rulesets import pod
from rulesets.capture import Capture
import nftables
context = nftables.Nftables()
events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
events.bind((0, 0))
events.setsockopt(270, 1, 7)
events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
print("ready", flush=True)
while True:
    heard = events.recv(65536)
    code, _, said = context.cmd("insert rule inet weir-pod nat-out tcp dport 25 accept")
    for _ in range(50):
        try:
            events.recv(65536, socket.MSG_DONTWAIT)
        except OSError:
            break
"""


def test_a_daemon_that_reads_back_something_else_says_so_counts_it_and_repairs_it(
    namespace: Namespace, tmp_path: Path
) -> None:
    def read_backs(equal: str) -> float:
        return daemon.metrics()["weir_read_backs_total", (equal,)]

    opened = listening(namespace, *PROXY)
    with Daemon(tmp_path, targets([namespace]), "--no-own", "--resync", "36000") as daemon:
        daemon.start()
        daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it is captured")
        assert read_backs("true") >= 1
        assert read_backs("false") == 0
        clean = rules(namespace)
        spoiler = namespace.spawn([sys.executable, "-c", _SPOILER], stdout=subprocess.PIPE)
        assert spoiler.stdout is not None
        assert spoiler.stdout.readline() == b"ready\n"
        namespace.nft("flush table inet weir-pod")
        said: list[str] = []

        def told() -> bool:
            found = daemon.target("t0")
            if found["state"] == "failed":
                said.append(found["reason"])
            return bool(said) and read_backs("false") > 0

        daemon.eventually(told, "the difference is told")
        assert "the rules are not what was written" in said[-1]
        assert "chain nat-out\n  - tcp dport 25 " in said[-1]
        spoiler.kill()
        spoiler.communicate()
        daemon.eventually(lambda: rules(namespace) == clean, "it is repaired")
        daemon.eventually(lambda: daemon.state("t0") == "unchanged", "and said to be so")
        assert "the rules are not what was written" in daemon.log
    for each in opened:
        each.close()


class Meddled(Handle):
    """A handle beside which somebody else writes: a script, right after each change that leads to such a table."""

    __slots__ = ("script", "where")
    script: str
    where: Namespace

    def apply(self, plan: Plan) -> None:
        super().apply(plan)
        if plan and (plan.desired is None) == ("add table" in self.script):
            self.where.nft(self.script)


@pytest.mark.parametrize(
    ("script", "drain", "said"),
    [
        ("insert rule inet weir-pod mangle-out tcp dport 25 accept", 60.0, "chain mangle-out\n  - tcp dport 25 "),
        ("add table inet weir-pod", 0.0, "the table is there again"),
    ],
    ids=["draining", "removed"],
)
def test_a_release_is_read_back(namespace: Namespace, tmp_path: Path, script: str, drain: float, said: str) -> None:
    with Weir(namespace, tmp_path) as weir:
        assert weir.capture(**WISH).state is State.DEGRADED
        weir.handle.close()
        meddled = weir.call(Meddled, Netns(namespace.name))
        meddled.script, meddled.where = script, namespace
        weir.handle = meddled
        outcome = weir.remove(drain)
        assert outcome.state is State.FAILED
        assert said in outcome.reason
        meddled.close()
        weir.handle = weir.call(Handle, Netns(namespace.name))
        assert weir.remove().state is State.REMOVED
        assert "weir" not in namespace.command("nft", "list", "ruleset")


_FAULTY = """
import os, nftables
carry_out = nftables.Nftables.cmd

def cmd(self, command):
    if command.startswith("list") and os.path.exists(os.path.join(os.path.dirname(__file__), "fault")):
        raise RuntimeError("a bug")
    return carry_out(self, command)

nftables.Nftables.cmd = cmd
"""


def test_a_bug_in_reading_back_ends_no_slot(namespace: Namespace, tmp_path: Path) -> None:
    folder = tmp_path / "faulty"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_FAULTY)
    (folder / "fault").touch()
    opened = listening(namespace, *PROXY)
    environment = {"PYTHONPATH": str(folder)}
    with Daemon(tmp_path, targets([namespace]), "--no-own", environment=environment) as daemon:
        daemon.start()
        daemon.eventually(lambda: "RuntimeError: a bug" in daemon.log, "it is told")
        daemon.eventually(lambda: daemon.metrics()["weir_read_backs_total", ("false",)] == 1, "and counted")
        (folder / "fault").unlink()
        daemon.eventually(lambda: daemon.state("t0") == "unchanged", "it goes on")
        clean = rules(namespace)
        namespace.nft("delete table inet weir-pod")
        daemon.eventually(lambda: rules(namespace) == clean, "and repairs")
    for each in opened:
        each.close()
